"""Short-lived tokens in place of a key (protocol 5.8): made by an engine, and good for that engine only."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Any

import msgspec

__all__ = ["Tokens"]

_HEADER = {"alg": "HS256", "typ": "JWT"}


class Tokens:
    """Signs JSON Web Tokens (RFC 7519, HS256) under a secret that nobody else has."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def sign(self, claims: dict[str, Any]) -> str:
        """Return a token with these claims."""
        signed = f"{_encode(msgspec.json.encode(_HEADER))}.{_encode(msgspec.json.encode(claims))}"
        return f"{signed}.{self._signature(signed)}"

    def valid(self, token: str, now: float) -> bool:
        """Whether a token was signed here and has not expired; ``now`` is in seconds since 1970."""
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            return False
        body = signed.partition(".")[2]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return bool(now < claims["exp"])

    def _signature(self, signed: str) -> str:
        return _encode(hmac.new(self._secret, signed.encode(), hashlib.sha256).digest())


def _encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()
