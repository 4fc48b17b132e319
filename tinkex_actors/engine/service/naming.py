"""Under which names a request may ask for the engine's model, and what clients are told of its tokenizer."""

from __future__ import annotations

import msgspec

__all__ = ["ModelNames", "names_of"]


class ModelNames(msgspec.Struct, frozen=True):
    """The names of one model.

    Attributes:
        name: the catalogue's, as in ``local://NAME``.
        architecture: the family of decoder.
        hugging_face: where the same weights and their tokenizer are published, or None.
    """

    name: str
    architecture: str = "llama"
    hugging_face: str | None = None

    @property
    def tokenizer_id(self) -> str:
        """What ``get_info`` answers: the public tokenizer where there is one, else the model's own name."""
        return self.hugging_face or self.name

    def accepts(self, asked: str) -> bool:
        """Whether ``asked`` means this model; case does not matter."""
        return asked.lower() in {self.name.lower(), (self.hugging_face or self.name).lower()}


_KNOWN = {"smollm2-135m": ModelNames("smollm2-135m", hugging_face="HuggingFaceTB/SmolLM2-135M-Instruct")}


def names_of(name: str) -> ModelNames:
    """Return the names of a catalogue model."""
    return _KNOWN.get(name) or ModelNames(name)
