"""What may be shown of a setting: nothing that opens a door."""

from __future__ import annotations

from tinkex_actors.redaction import MASK

__all__ = ["is_secret_header", "masked_key"]

# A key of this length keeps more than a hundred bits when its last four characters are known.
_LONG_KEY = 24
_SECRET_HEADERS = frozenset(
    {
        "authorization",
        "cf-access-client-secret",
        "cookie",
        "proxy-authorization",
        "set-cookie",
        "x-api-key",
        "x-tinker-weights-access-token",
    }
)
_SECRET_WORDS = ("secret", "token", "password", "credential", "api-key", "apikey")


def masked_key(key: str | None) -> str:
    """Return what may be shown of a key: its last four characters if it is long, to tell two apart, else ``***``."""
    if key is None:
        return "None"
    return f"{MASK}{key[-4:]}" if len(key) >= _LONG_KEY else MASK


def is_secret_header(name: str) -> bool:
    """Return whether a header's value must not be shown: those that carry credentials, and any that say so."""
    name = name.lower()
    return name in _SECRET_HEADERS or any(word in name for word in _SECRET_WORDS)
