"""The command that a run was opened by, so that ``tinkex-actors run resume`` can give it again."""

from __future__ import annotations

import os
import sys

from tinkex_actors.redaction import redact

__all__ = ["own_command"]


def own_command() -> tuple[list[str] | None, str]:
    """Return this process's command line and folder.

    None in place of the command where giving it again would not do the same: an interactive interpreter, a notebook, or
    a command with a credential in it, which has no business in a file.
    """
    command = list(sys.orig_argv)
    interactive = hasattr(sys, "ps1") or len(command) < 2 or "ipykernel" in sys.modules or "-c" in command[1:2]
    if interactive or redact("\0".join(command)) != "\0".join(command):
        return None, os.getcwd()
    return [sys.executable, *command[1:]], os.getcwd()
