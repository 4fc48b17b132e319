"""The tokenizer of a Hugging Face folder: ``tokenizer.json``, and the chat template beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex_actors.errors import ConfigError, InputError
from tinkex_actors.tokenizers.chatml import END, chatml_text

if TYPE_CHECKING:
    import tokenizers

__all__ = ["FolderTokenizer"]

_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


class FolderTokenizer:
    """A tokenizer as Hugging Face publishes it. Made by :meth:`load`.

    Args:
        engine: the ``tokenizers.Tokenizer``.
        eos_id: the token with which the model ends an answer.
        template: the chat template (Jinja), or None where the model has none.
        special: texts of the special tokens, by the name that templates use.
    """

    def __init__(
        self, engine: tokenizers.Tokenizer, eos_id: int, template: str | None, special: Mapping[str, str]
    ) -> None:
        self._engine = engine
        self._eos_id = eos_id
        self._template = template
        self._special = dict(special)

    @classmethod
    def load(cls, folder: Path, eos_ids: Sequence[int] = ()) -> FolderTokenizer:
        """Read ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``.

        Args:
            folder: where they are; only the first one is needed.
            eos_ids: what the model's own configuration says ends an answer; the first counts.

        Raises:
            ConfigError: there is no usable ``tokenizer.json``, or nothing says what ends an answer.
        """
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ConfigError(
                f"model {folder}: there is no tokenizer.json in it. Save the tokenizer in the fast format first "
                "(AutoTokenizer.from_pretrained(...).save_pretrained(...))."
            )
        try:
            engine = Tokenizer.from_file(str(path))
        except Exception as error:  # The library raises plain Exception.
            raise ConfigError(f"{path}: cannot be read ({error}). Fetch the model again.") from error
        settings = _settings(folder / "tokenizer_config.json")
        special = {name: _text(settings[name]) for name in _SPECIAL if settings.get(name) is not None}
        eos_id = eos_ids[0] if eos_ids else engine.token_to_id(special.get("eos_token", ""))
        if eos_id is None:
            raise ConfigError(
                f"model {folder}: nothing says which token ends an answer. Set eos_token_id in its config.json."
            )
        return cls(engine, int(eos_id), _template(folder, settings), special)

    @property
    def eos_id(self) -> int:
        """The token with which the model ends an answer."""
        return self._eos_id

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return int(self._engine.get_vocab_size())

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text; see ``Tokenizer``."""
        return list(self._engine.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids; see ``Tokenizer``."""
        return str(self._engine.decode([int(token) for token in ids], skip_special_tokens=skip_special_tokens))

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the ids of a conversation by the model's own template, or in ChatML where it has the tokens for that.

        Raises:
            InputError: no messages, one without a role or content, or one that the template refuses.
            ConfigError: the model has no chat template.
        """
        chatml = chatml_text(messages)
        if self._template is not None:
            return self.encode(_render(self._template, messages, self._special))
        if self._engine.token_to_id(END) is None:
            raise ConfigError("chat: this model has no chat template; write the prompt yourself and encode() it.")
        return self.encode(chatml)


def _render(template: str, messages: Sequence[Mapping[str, str]], special: Mapping[str, str]) -> str:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    # Templates come with the model: they are somebody else's programs, and run in a sandbox.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    try:
        return environment.from_string(template).render(messages=messages, add_generation_prompt=True, **special)
    except (TemplateError, TypeError, ValueError) as error:
        raise InputError(f"chat: the model's template refuses this conversation: {error}.") from error


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
    return found


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Fetch the model again.") from error
    return found if isinstance(found, dict) else {}


def _text(token: Any) -> str:
    """Return a special token's text: a plain one, or the content of an ``AddedToken``."""
    return str(token["content"]) if isinstance(token, dict) else str(token)
