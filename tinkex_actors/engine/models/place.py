"""Which model is meant by a text: one of the catalogue, or a folder on this machine."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ModelPlace", "place_of"]

# Of the folder's path: tells folders of one name apart in the store.
_DIGEST_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """A model that ``local://`` or ``serve`` was asked for.

    Args:
        asked: as it was asked for.
        name: what the API calls it: the catalogue's name, or the folder's.
        folder: where its files are; None for a model of the catalogue.
    """

    asked: str
    name: str
    folder: Path | None = None

    @property
    def store_name(self) -> str:
        """The name of its part of the store: checkpoints belong to a folder at its path."""
        if self.folder is None:
            return self.name
        digest = hashlib.sha256(str(self.folder).encode()).hexdigest()
        return f"{self.name}-{digest[:_DIGEST_CHARACTERS]}"


def place_of(asked: str) -> ModelPlace:
    """Return the place of a model; touches no disk.

    A text with a slash (or the platform's separator), and one that begins with ``~`` or a dot, is a folder; anything
    else is a name of the catalogue.
    """
    separators = {"/", os.sep, os.altsep or "/"}
    if not (any(mark in asked for mark in separators) or asked.startswith(("~", "."))):
        return ModelPlace(asked, asked)
    folder = Path(os.path.abspath(Path(asked).expanduser()))
    return ModelPlace(asked, folder.name or "model", folder)
