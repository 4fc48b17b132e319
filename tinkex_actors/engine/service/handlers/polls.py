"""Handlers for the results of promises (protocol part 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.engine.service import differences
from tinkex_actors.errors import BadRequestError, GoneError
from tinkex_actors.types import FuturesRetrieveResponse
from tinkex_actors.wire.exchange import header
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import encode_failure, encode_metadata_only, encode_result, encode_try_again

if TYPE_CHECKING:
    from tinkex_actors.engine.service.call import Call
    from tinkex_actors.engine.service.cell import EngineCell
    from tinkex_actors.wire.exchange import Response

__all__ = ["cancel_future", "retrieve_future", "retrieve_futures"]

# Results larger than this are announced before they are sent, to a client that asked for it (protocol 4.3).
METADATA_ONLY_BYTES = 1024 * 1024

# Of a poll's own time-out, what may be spent waiting: the answer must still arrive in time.
_POLL_SHARE = 0.8


async def retrieve_future(cell: EngineCell, call: Call) -> Response:
    """Hold the request until its promise is settled or the poll's time is up, and answer what became of it."""
    request_id = call.message.request_id
    promise = cell.promises.find(request_id)
    if promise is None and cell.sessions.ended(request_id.partition(":")[0]):
        raise GoneError(f"The session of {request_id!r} has ended, and its results with it.", status_code=410)
    promise = cell.promises.get(request_id)
    cell.session(promise.session_id)
    if paused := _paused(cell, call):
        return encode_try_again(request_id, paused, "provoked")
    if not await promise.wait(min(call.options.long_poll, _POLL_SHARE * call.request.timeout)):
        return encode_try_again(request_id, "active")
    if promise.state == "dropped":
        raise GoneError(f"{request_id!r} is gone: its session has ended.", status_code=410)
    if promise.state == "failed":
        cell.promises.mark_read(promise)
        return encode_failure(promise.error, promise.category)
    accept = "" if call.options.lacks("protobuf") else header(call.request.headers, "accept")
    response = encode_result(ROUTES[promise.route], differences.result(promise.result, call.options), accept)
    size = len(response.body)
    if call.message.allow_metadata_only and not call.options.lacks("metadata_only"):
        forced = call.options.provocations.state("metadata_only", cell.now())
        if forced or size > METADATA_ONLY_BYTES:
            return encode_metadata_only(size)
    cell.promises.mark_read(promise)
    return response


async def retrieve_futures(cell: EngineCell, call: Call) -> FuturesRetrieveResponse:
    """Hold the request until a sample of its client is done, or its time is up; and drop results that were read."""
    message = call.message
    target = message.target
    sampler = cell.sampler(target.sampling_session_id)
    for request_id in message.retrieved_request_ids:
        cell.promises.release(request_id, sampler.sampling_session_id)
    patience = min(call.options.long_poll, _POLL_SHARE * call.request.timeout)
    if message.timeout is not None:
        patience = min(patience, message.timeout)
    completions, cursor = await cell.completions.after(
        sampler.sampling_session_id, target.cloned_sampler_id, message.prev_cursor, patience
    )
    return FuturesRetrieveResponse(completions=completions, cursor=cursor)


async def cancel_future(cell: EngineCell, call: Call) -> None:
    """Give up a sample that nobody waits for any more; one that is done, or cancelled already, stays as it is."""
    request_id = call.message.request_id
    promise = cell.promises.get(request_id)
    cell.session(promise.session_id)
    if promise.route != "asample":
        raise BadRequestError(
            f"{request_id} is a {promise.route}: only samples can be cancelled; later steps build on it.",
            status_code=400,
        )
    if cell.jobs.withdraw(request_id) is not None:
        cell.promises.fail(promise, "its client cancelled it", "user")


def _paused(cell: EngineCell, call: Call) -> str | None:
    """Return the queue state that was asked for in place of the true one, or None."""
    provocations, now = call.options.provocations, cell.now()
    if provocations.state("queue_paused", now):
        return "paused_capacity"
    return "paused_rate_limit" if provocations.state("queue_limited", now) else None
