"""From a request to a response: find the handler, decode, call it, encode what it answers or raises."""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from tinkex_actors.engine.service import differences
from tinkex_actors.engine.service.call import Call
from tinkex_actors.engine.service.handlers import (
    account,
    archive,
    checkpoints,
    front,
    polls,
    sampling,
    saving,
    sessions,
    training,
)
from tinkex_actors.engine.service.rescue import numbers_of
from tinkex_actors.errors import APIStatusError, BadRequestError, ConfigError, InputError, WireError
from tinkex_actors.runtime.log import Logger
from tinkex_actors.wire.exchange import Response, header
from tinkex_actors.wire.server import decode_request, encode_error, encode_response, match
from tinkex_actors.wire.streams import EVENT_STREAM

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from tinkex_actors.engine.service.call import EngineOptions
    from tinkex_actors.engine.service.cell import EngineCell
    from tinkex_actors.wire.exchange import Request
    from tinkex_actors.wire.routes import Route

    Handler = Callable[[EngineCell, Call], Awaitable[Any]]

__all__ = ["HANDLERS", "begin", "handle"]

_log = Logger("tinkex_actors.engine")

# Asked for with the key itself, also where everything else wants a token (protocol 5.1).
_OPEN = frozenset({"auth_token", "client_config", "healthz"})

HANDLERS: Mapping[str, Handler] = {
    name: getattr(module, name)
    for module in (account, archive, checkpoints, front, polls, sampling, saving, sessions, training)
    for name in module.__all__
} | {"forward": training.forward_backward}
"""By the name of the route: every public function of the handlers' modules."""


async def handle(cell: EngineCell, request: Request, options: EngineOptions) -> Response:
    """Answer a request. Every outcome is a response; one that comes in pieces is waited for.

    Raises:
        ConfigError: the engine cannot work at all as it is set up; there is no status for that.
    """
    answer = await begin(cell, request, options)
    if isinstance(answer, Response):
        return answer
    async with aclosing(answer):
        return Response(200, {"content-type": EVENT_STREAM}, b"".join([piece async for piece in answer]))


async def begin(cell: EngineCell, request: Request, options: EngineOptions) -> Response | AsyncGenerator[bytes, None]:
    """Answer a request: with a response, or with the pieces of one, which the caller closes.

    Raises:
        ConfigError: the engine cannot work at all as it is set up; there is no status for that.
    """
    found = match(request)
    if found is None and (file := await _file(cell, request)) is not None:
        return file
    if found is None or options.lacks(found[0].name) or found[0].name not in HANDLERS:
        return encode_error(404, f"No route {request.method} {request.path.partition('?')[0]} on this engine.")
    route, path = found
    if options.strict and route.name != "healthz" and not header(request.headers, "x-api-key"):
        return encode_error(401, "No API key. Send any key in X-API-Key: this engine is strict and wants one.")
    if options.quirks.wants_jwt and route.name not in _OPEN and not _has_token(cell, request):
        response = encode_error(401, "The token is missing, was not made here or has expired. Exchange the key again.")
        response.headers["www-authenticate"] = 'Bearer error="invalid_token"'
        return response
    provoked = differences.provoked(route, request, options, cell.now())
    answer = provoked or await _answer(cell, differences.incoming(request, options), route, path, options)
    return differences.outgoing(route, answer, options) if isinstance(answer, Response) else answer


async def _file(cell: EngineCell, request: Request) -> Response | None:
    try:
        return await cell.downloads.answer(request)
    except APIStatusError as error:
        return _refusal(error)


def _has_token(cell: EngineCell, request: Request) -> bool:
    return cell.tokens.valid(header(request.headers, "x-api-key"), cell.wall_clock().timestamp())


async def _answer(
    cell: EngineCell, request: Request, route: Route, path: dict[str, str], options: EngineOptions
) -> Response | AsyncGenerator[bytes, None]:
    if refused := differences.refusal(route, request, options):
        return refused
    try:
        answer = await HANDLERS[route.name](cell, _decode(cell, request, route, path, options))
    except APIStatusError as error:
        return _refusal(error)
    except InputError as error:
        return encode_error(400, str(error))
    except ConfigError:
        raise
    except Exception as error:
        _log.error("engine.request_failed", route=route.name, exc_info=error)
        response = encode_error(500, f"{route.name}: {type(error).__name__}: {error}. This is a defect of the engine.")
        # It will not mend itself, while clients repeat a 500 for minutes (protocol 1.5).
        response.headers["x-should-retry"] = "false"
        return response
    return answer if route.streamed or isinstance(answer, Response) else encode_response(route, answer)


def _decode(cell: EngineCell, request: Request, route: Route, path: dict[str, str], options: EngineOptions) -> Call:
    try:
        message = decode_request(route, request)
    except (WireError, InputError) as error:
        refusal = BadRequestError(str(error), status_code=400)
        model_id, seq_id = numbers_of(request)
        cell.reject(model_id, seq_id, refusal)
        raise refusal from error
    return Call(request, route, path, message, options, hashlib.blake2b(request.body, digest_size=16).digest())


def _refusal(error: APIStatusError) -> Response:
    response = encode_error(error.status_code, str(error), retry_after=error.retry_after)
    # 409 from us is final, while the official client would repeat it for five minutes (protocol 1.3, 1.5).
    if error.status_code == 409:
        response.headers["x-should-retry"] = "false"
    return response
