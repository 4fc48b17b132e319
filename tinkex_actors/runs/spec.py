"""What a run is, fixed when it begins: the same spec, data and seeds give the same run."""

from __future__ import annotations

import hashlib

import msgspec

from tinkex_actors.errors import ConfigError, RunError
from tinkex_actors.types import LoraConfig

__all__ = ["RunSpec", "agreed_spec", "derived_seed"]


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A run's beginning.

    Args:
        model: the base model; None where ``from_checkpoint`` says it.
        lora: the adapter, its seed filled in; None for a model from a checkpoint.
        from_checkpoint: the checkpoint that the run begins with, weights and optimizer; None begins afresh.
        seed: of everything random in the run; see :func:`derived_seed`.
    """

    model: str | None = None
    lora: LoraConfig | None = None
    from_checkpoint: str | None = None
    seed: int = 0


def derived_seed(seed: int, *place: int | str) -> int:
    """Return a seed of 63 bits for a place in a run, such as a step's number; different places have different ones."""
    text = "/".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def agreed_spec(asked: RunSpec, known: RunSpec | None, folder: str) -> RunSpec:
    """Return the spec to run with: a new run's is completed, a known one's must not be contradicted.

    Args:
        asked: what the program asks for; its fields of None ask for nothing.
        known: what the journal says, None for a new run.
        folder: the run's folder, for messages.

    Raises:
        ConfigError: a new run without a model, or with a model's shape beside a checkpoint that has its own.
        RunError: the program asks for another run than the one in the folder.
    """
    if known is not None:
        for name in ("model", "lora", "from_checkpoint"):
            wish, there = getattr(asked, name), getattr(known, name)
            if isinstance(wish, LoraConfig) and wish.seed is None and there is not None:
                wish = msgspec.structs.replace(wish, seed=there.seed)
            if wish is not None and wish != there:
                raise RunError(
                    f"The run in {folder} was begun with {name}={there!r}, and is asked for with {wish!r}. Open "
                    "another folder for another run, or leave the argument out to go on with this one.",
                    path=folder,
                )
        return known
    if asked.from_checkpoint is not None:
        if asked.lora is not None:
            raise ConfigError(
                "DurableRun.open: lora and from_checkpoint are both given; a checkpoint has its own shape."
            )
        return asked
    if asked.model is None:
        raise ConfigError(
            f"DurableRun.open: there is no run in {folder} yet, and no model is named. Pass model='NAME', or "
            "from_checkpoint='tinker://...'."
        )
    lora = asked.lora or LoraConfig(rank=32)
    if lora.seed is None:
        # Small enough for every server, and the same in every run of this seed: a run is reproducible by default.
        lora = msgspec.structs.replace(lora, seed=derived_seed(asked.seed, "adapter") >> 32)
    return msgspec.structs.replace(asked, lora=lora)
