"""The credentials file that the official login writes (protocol 5.9): read, never written."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tinkex_actors.errors import CredentialsError

__all__ = ["CREDENTIALS_FILE", "default_key"]

CREDENTIALS_FILE = Path(".tinker") / "credentials.json"
"""Where it lies, below the home folder."""

_VERSION = 1


class _Record(msgspec.Struct):
    key: str


class _Credentials(msgspec.Struct):
    version: int = _VERSION
    default: str | None = None
    keys: dict[str, _Record] = {}


def default_key(path: Path) -> str | None:
    """Return the default key of a credentials file; None where there is no file, or no default in it.

    Raises:
        CredentialsError: the file cannot be read, is not such a file, or names a default that it does not hold.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Credentials)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CredentialsError(f"{path} cannot be read: {error.strerror or error}. Set TINKER_API_KEY.") from error
    except msgspec.DecodeError as error:
        # The decoder's words name a place, never a value.
        raise CredentialsError(
            f"{path} is not a credentials file: {error}. Log in again with the official command line, or set "
            "TINKER_API_KEY."
        ) from None
    if found.version != _VERSION:
        raise CredentialsError(f"{path} has version {found.version}, expected {_VERSION}. Set TINKER_API_KEY.")
    if found.default is None:
        return None
    if found.default not in found.keys:
        raise CredentialsError(
            f"{path} names a default key that it does not hold. Log in again, or set TINKER_API_KEY."
        )
    return found.keys[found.default].key
