"""Short-lived credentials: when to use a token, when to renew it (protocol 5.8).

Rules:

1. A token is used while more than 60 s of its life remain; after that it must be renewed first.
2. It is renewed ahead of that after a share of its life between 0.45 and 0.55, drawn for each token, so that many
   clients do not come at once.
3. Life is what the server says by its own clock, ``exp - iat``, counted from the moment the token came: the clocks
   of the two machines need not agree. A token that says neither is renewed after 60 s.
4. A renewal ahead of time that fails is tried again after 60 s; the token goes on being used while it lives.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal, TypeGuard

import msgspec

__all__ = ["Token", "claims", "failed", "is_jwt", "received", "what_to_do"]

_MARGIN = 60.0
_UNKNOWN_LIFE = 60.0
_AGAIN = 60.0
_EARLIEST_SHARE, _SPREAD = 0.45, 0.10


class Token(msgspec.Struct):
    """A token and its times, in seconds of the caller's clock.

    Args:
        text: the credential itself.
        expires_at: the end of its life; infinite where it says nothing of one.
        renew_at: when to renew it ahead of time.
    """

    text: str
    expires_at: float
    renew_at: float

    def __repr__(self) -> str:
        return f"Token(***, expires_at={self.expires_at:.0f}, renew_at={self.renew_at:.0f})"


def is_jwt(credential: str) -> bool:
    """Return whether a credential is a JWT rather than an API key (protocol 0.3)."""
    return credential.startswith("eyJ")


def claims(token: str) -> dict[str, Any]:
    """Return what a JWT says; nothing is verified. Empty where it cannot be read."""
    parts = token.split(".")
    if len(parts) < 2:
        return {}
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def received(text: str, now: float, u: float) -> Token:
    """Return a token that the server has just given.

    Args:
        text: as it came.
        now: the instant.
        u: chance in [0, 1), for rule 2.
    """
    said = claims(text)
    issued, expires = said.get("iat"), said.get("exp")
    if not _is_instant(issued) or not _is_instant(expires) or expires <= issued:
        return Token(text, expires_at=float("inf"), renew_at=now + _UNKNOWN_LIFE)
    life = float(expires - issued)
    return Token(text, expires_at=now + life, renew_at=now + life * (_EARLIEST_SHARE + _SPREAD * u))


def what_to_do(token: Token | None, now: float) -> Literal["use", "renew", "must_renew"]:
    """Return whether to use a token as it is, to renew it while it may still be used, or to renew it first."""
    if token is None or token.expires_at - now <= _MARGIN:
        return "must_renew"
    return "renew" if now >= token.renew_at else "use"


def failed(token: Token, now: float) -> None:
    """Take note that a renewal failed (rule 4)."""
    token.renew_at = now + _AGAIN


def _is_instant(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
