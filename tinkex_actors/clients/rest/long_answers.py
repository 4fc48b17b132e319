"""Answers that are not one request: a trace that the server writes first, and who the credential belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinkex_actors.errors import APITimeoutError, CredentialsError, InputError, RemoteWireError, RequestFailedError
from tinkex_actors.machines import tokens
from tinkex_actors.types import WhoamiResponse
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.clients.backbone import Backbone

__all__ = ["export_trace", "whoami"]

_TRACE_PAUSE = 5.0  # protocol 8.1


def export_trace(core: Backbone, session_id: str, timeout: float) -> ApiFuture[str]:
    """Ask for a session's trace until it is written."""
    if not timeout > 0.0:
        raise InputError(f"export_session_trace: timeout is in seconds, above 0; got {timeout!r}.")
    core.use()
    deadline = core.loop.time() + timeout

    async def run(future: ApiFuture[Any]) -> str:
        future.deadline = deadline
        while True:
            answer = await core.link.exchange(ROUTES["export_session_trace"], path={"session_id": session_id})
            if answer.status == "failed":
                raise RequestFailedError(f"The server could not export the trace of {session_id}: {answer.error}")
            if answer.status == "ready":
                if answer.url is None:
                    raise RemoteWireError(f"export_session_trace({session_id!r}): ready, but the server named no link.")
                return str(answer.url)
            if core.loop.time() + _TRACE_PAUSE > deadline:
                raise APITimeoutError(
                    f"The trace of {session_id} was not written within {timeout:g} s. Ask again later: the server goes "
                    "on with it."
                )
            future.waits_for(f"the server, which writes the trace; asked again in {_TRACE_PAUSE:g} s")
            await core.link.pause(_TRACE_PAUSE)

    return core.courier.send("export_session_trace", run, session_id=session_id)


def whoami(core: Backbone) -> ApiFuture[WhoamiResponse]:
    """Read the claims of the credential's token (protocol 5.10)."""
    core.use()

    async def run(_: ApiFuture[Any]) -> WhoamiResponse:
        said = tokens.claims(await core.link.keyring.current() or "")
        user, organization = said.get("sub"), said.get("org_id")
        if not isinstance(user, str) or not isinstance(organization, str):
            raise CredentialsError(
                "whoami: the credential says nothing of its owner; only a token does. Servers that exchange keys for "
                "tokens are asked for one by the first request of a session, so use the service first."
            )
        email = said.get("email")
        return WhoamiResponse(
            user_urn=user,
            org_urn=f"tml:organization:{organization}",
            email=email if isinstance(email, str) and email else None,
        )

    return core.courier.send("whoami", run)
