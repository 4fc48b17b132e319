"""Under which names a request may ask for the engine's model, and what clients are told of its tokenizer."""

from __future__ import annotations

import msgspec

from tinkex_actors.engine.models.place import place_of

__all__ = ["ModelNames", "names_of"]


class ModelNames(msgspec.Struct, frozen=True):
    """The names of one model.

    Attributes:
        name: the catalogue's, as in ``local://NAME``, or that of the model's folder.
        hugging_face: what ``transformers`` finds the same weights and their tokenizer by: where they are published, or
            the folder's path. None for neither.
    """

    name: str
    hugging_face: str | None = None

    @property
    def tokenizer_id(self) -> str:
        """What ``get_info`` answers: the public tokenizer where there is one, else the model's own name."""
        return self.hugging_face or self.name

    def accepts(self, asked: str) -> bool:
        """Whether ``asked`` means this model; case does not matter."""
        return asked.lower() in {self.name.lower(), (self.hugging_face or self.name).lower()}


_KNOWN = {"smollm2-135m": ModelNames("smollm2-135m", hugging_face="HuggingFaceTB/SmolLM2-135M-Instruct")}


def names_of(asked: str) -> ModelNames:
    """Return the names of a model of the catalogue, or of a folder."""
    place = place_of(asked)
    if place.folder is not None:
        return ModelNames(place.name, hugging_face=str(place.folder))
    return _KNOWN.get(asked) or ModelNames(asked)
