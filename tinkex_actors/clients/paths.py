"""Checkpoint paths as users pass them on: ours are looked into, other servers' are taken as they are."""

from __future__ import annotations

import re
from typing import Final

from tinkex_actors.errors import TinkerPathError
from tinkex_actors.types import ParsedCheckpointTinkerPath

__all__ = ["checkpoint_path"]

_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/]\S*", re.IGNORECASE)


def checkpoint_path(path: str) -> ParsedCheckpointTinkerPath | None:
    """Return a path's parts, or None for one of another shape, which only its server can read.

    Raises:
        TinkerPathError: no address at all, such as a name or a file.
    """
    try:
        return ParsedCheckpointTinkerPath.from_tinker_path(path)
    except TinkerPathError:
        if isinstance(path, str) and _ADDRESS.fullmatch(path):
            return None
        raise
