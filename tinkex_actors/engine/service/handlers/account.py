"""Handlers for what the hosted service has and a machine of one's own has not: accounts, keys, bills, an audit.

Anybody who reaches the engine is its one user. What can be answered truly is; lists of what never happens here are
empty; the rest is refused with what to do instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.engine.service.handlers.archive import OWNER
from tinkex_actors.errors import AuthenticationError, BadRequestError, NotFoundError
from tinkex_actors.types import (
    ApiKeyDetails,
    ApiKeyOrgDetails,
    ApiKeyUserDetails,
    AuditLogResponse,
    AuthTokenResponse,
    BillingUsageResponse,
    CurrentCheckpointStorageUsageItem,
    CurrentCheckpointStorageUsageResponse,
    SelfApiKeyResponse,
)
from tinkex_actors.wire.exchange import header

if TYPE_CHECKING:
    from tinkex_actors.engine.service.call import Call
    from tinkex_actors.engine.service.cell import EngineCell

__all__ = [
    "auth_token",
    "delete_self_api_key",
    "get_audit_log",
    "get_billing_usage",
    "get_current_checkpoint_storage_usage",
    "get_self_api_key",
]

# Protocol 5.8: a client refreshes at half of it.
_TOKEN_LIFETIME = 3600

_GIGABYTE = 1e9


async def auth_token(cell: EngineCell, call: Call) -> AuthTokenResponse:
    """Exchange the key for a token that says who its bearer is; 401 without a key."""
    _require_key(call)
    now = int(cell.wall_clock().timestamp())
    claims = {"sub": OWNER, "org_id": OWNER, "iss": "tinkex-actors", "iat": now, "exp": now + _TOKEN_LIFETIME}
    return AuthTokenResponse(jwt=cell.tokens.sign(claims))


async def get_self_api_key(cell: EngineCell, call: Call) -> SelfApiKeyResponse:
    """Describe the key of a request: every key is the local user's."""
    _require_key(call)
    details = ApiKeyDetails(
        org_details=ApiKeyOrgDetails(name=OWNER), user_details=ApiKeyUserDetails(email=f"{OWNER}@localhost")
    )
    note = "This engine accepts any key and keeps none."
    return SelfApiKeyResponse(key_id=0, name=OWNER, note=note, details=details)


async def delete_self_api_key(cell: EngineCell, call: Call) -> None:
    """Refuse: there is no key to delete."""
    raise NotFoundError("This engine accepts any key and keeps none, so there is none to delete.", status_code=404)


async def get_audit_log(cell: EngineCell, call: Call) -> AuditLogResponse:
    """Answer an empty list: there is one user, and nobody to watch."""
    return AuditLogResponse(entries=[])


async def get_billing_usage(cell: EngineCell, call: Call) -> BillingUsageResponse:
    """Answer an empty list: nothing here costs anything."""
    if call.message.starting_on >= call.message.ending_before:
        raise BadRequestError("starting_on: expected a time before ending_before.", status_code=400)
    return BillingUsageResponse(data=[], cost_data_through=cell.wall_clock())


async def get_current_checkpoint_storage_usage(cell: EngineCell, call: Call) -> CurrentCheckpointStorageUsageResponse:
    """Answer what the checkpoints take on this machine, by project."""
    runs = {run.training_run_id: run.project_id for run in await cell.on_disk(cell.store.runs)}
    sizes: dict[str | None, list[int]] = {}
    for record in await cell.on_disk(cell.store.checkpoints):
        sizes.setdefault(runs.get(record.training_run_id), []).append(record.size_bytes)
    wanted = call.message.project_id
    items = [
        CurrentCheckpointStorageUsageItem(
            checkpoint_count=len(found),
            size_bytes=sum(found),
            size_gigabytes=sum(found) / _GIGABYTE,
            project_id=project_id,
            user_name=OWNER,
        )
        for project_id, found in sorted(sizes.items(), key=lambda item: item[0] or "")
        if wanted is None or project_id == wanted
    ]
    return CurrentCheckpointStorageUsageResponse(data=items)


def _require_key(call: Call) -> None:
    if not header(call.request.headers, "x-api-key"):
        raise AuthenticationError("No API key. Send any key in X-API-Key.", status_code=401)
