"""From a request to a response: find the handler, decode, call it, encode what it answers or raises."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from tinkex_actors.engine.service import archive, front, sampling, saving, training
from tinkex_actors.engine.service.call import Call
from tinkex_actors.engine.service.rescue import numbers_of
from tinkex_actors.errors import APIStatusError, BadRequestError, ConfigError, InputError, WireError
from tinkex_actors.runtime.log import Logger
from tinkex_actors.wire.exchange import Response, header
from tinkex_actors.wire.server import decode_request, encode_error, encode_response, match

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tinkex_actors.engine.service.call import EngineOptions
    from tinkex_actors.engine.service.cell import EngineCell
    from tinkex_actors.wire.exchange import Request
    from tinkex_actors.wire.routes import Route

    Handler = Callable[[EngineCell, Call], Awaitable[Any]]

__all__ = ["HANDLERS", "handle"]

_log = Logger("tinkex_actors.engine")

HANDLERS: Mapping[str, Handler] = {
    handler.__name__: handler
    for handler in (
        archive.delete_checkpoint,
        archive.get_training_run,
        archive.list_checkpoints,
        archive.list_training_runs,
        archive.list_user_checkpoints,
        archive.weights_info,
        front.client_config,
        front.create_session,
        front.dynamic_config,
        front.finish_session,
        front.get_server_capabilities,
        front.healthz,
        front.retrieve_future,
        front.session_heartbeat,
        front.telemetry,
        sampling.asample,
        sampling.create_sampling_session,
        sampling.get_sampler,
        saving.save_weights,
        saving.save_weights_for_sampler,
        training.create_model,
        training.forward_backward,
        training.get_info,
        training.load_weights,
        training.optim_step,
        training.unload_model,
    )
} | {"forward": training.forward_backward}

# What each dialect does not have: older servers have no configuration, newer ones no separate forward.
_ABSENT = {"hosted": frozenset({"forward"}), "json": frozenset({"client_config", "dynamic_config"})}


async def handle(cell: EngineCell, request: Request, options: EngineOptions) -> Response:
    """Answer a request. Every outcome is a response.

    Raises:
        ConfigError: the engine cannot work at all as it is set up; there is no status for that.
    """
    found = match(request)
    absent = _ABSENT[options.dialect.name]
    if found is None or found[0].name in absent or found[0].name not in HANDLERS:
        return encode_error(404, f"No route {request.method} {request.path.partition('?')[0]} on this engine.")
    route, path = found
    if options.strict and route.name != "healthz" and not header(request.headers, "x-api-key"):
        return encode_error(401, "No API key. Send any key in X-API-Key: this engine is strict and wants one.")
    try:
        call = _decode(cell, request, route, path, options)
        answer = await HANDLERS[route.name](cell, call)
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
    return answer if isinstance(answer, Response) else encode_response(route, answer)


def _decode(cell: EngineCell, request: Request, route: Route, path: dict[str, str], options: EngineOptions) -> Call:
    if "protobuf" in header(request.headers, "content-type") and not options.dialect.protobuf:
        raise APIStatusError("This engine speaks JSON only. Send application/json.", status_code=415)
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
