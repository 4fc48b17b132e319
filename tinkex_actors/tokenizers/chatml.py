"""The ChatML template: how a conversation becomes one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinkex_actors.errors import InputError

__all__ = ["END", "START", "chatml_text"]

START = "<|im_start|>"
END = "<|im_end|>"


def chatml_text(messages: Sequence[Mapping[str, str]], default_system: str | None = None) -> str:
    """Return the text of a conversation, ending where the assistant's answer begins.

    Args:
        messages: mappings with ``role`` and ``content``, in order.
        default_system: content of the system message put in front of a conversation that has none; None for none.

    Raises:
        InputError: no messages, or one without a role or content.
    """
    if not messages:
        raise InputError("chat: no messages; give at least one with 'role' and 'content'")
    turns = list(messages)
    for index, turn in enumerate(turns):
        if not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str):
            raise InputError(f"chat: message {index} needs text under 'role' and 'content'; it has {sorted(turn)}")
    if default_system is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": default_system})
    body = "".join(f"{START}{turn['role']}\n{turn['content']}{END}\n" for turn in turns)
    return f"{body}{START}assistant\n"
