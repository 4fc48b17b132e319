"""Who the caller is: keys and tokens (protocol 1.7.3, 1.7.45, 5.8, 5.10)."""

from __future__ import annotations

from typing import ClassVar

from tinkex_actors.types._record import Record

__all__ = [
    "ApiKeyDetails",
    "ApiKeyOrgDetails",
    "ApiKeyUserDetails",
    "AuthTokenRequest",
    "AuthTokenResponse",
    "SelfApiKeyResponse",
    "WhoamiResponse",
]


class AuthTokenRequest(Record, frozen=True, kw_only=True):
    """Body of ``auth/token``: an empty object; the credential is in the header."""


class AuthTokenResponse(Record, frozen=True, kw_only=True):
    """A short-lived token to use in place of the key; its claims ``exp`` and ``iat`` say how long."""

    _secrets: ClassVar[tuple[str, ...]] = ("jwt",)

    jwt: str


class ApiKeyOrgDetails(Record, frozen=True, kw_only=True):
    """An organization."""

    name: str


class ApiKeyUserDetails(Record, frozen=True, kw_only=True):
    """A user."""

    email: str


class ApiKeyDetails(Record, frozen=True, kw_only=True):
    """Whose an API key is."""

    org_details: ApiKeyOrgDetails
    user_details: ApiKeyUserDetails


class SelfApiKeyResponse(Record, frozen=True, kw_only=True):
    """The key the request came with: its number, its name and note, and whose it is."""

    key_id: int
    name: str
    note: str
    details: ApiKeyDetails


class WhoamiResponse(Record, frozen=True, kw_only=True):
    """The caller, as the claims of the token say (protocol 5.10)."""

    user_urn: str
    org_urn: str
    email: str | None = None
