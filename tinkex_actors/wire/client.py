"""The client's direction: messages to requests, responses to messages (protocol 1.2, 1.7, 4)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

import msgspec

from tinkex_actors.errors import LocalWireError, RemoteWireError
from tinkex_actors.types import FutureRetrieveRequest, SampleRequest, SamplingParams
from tinkex_actors.wire._codec.read_json import decode_json
from tinkex_actors.wire._codec.write_json import encode_json
from tinkex_actors.wire.answers import Failed, MetadataOnly, PollAnswer, Ready, Timeout408, TryAgain
from tinkex_actors.wire.classification import classify, proxy_rejection
from tinkex_actors.wire.dialect import Dialect
from tinkex_actors.wire.exchange import Request, Response, header_value
from tinkex_actors.wire.routes import PREFIX, ROUTES, Route

__all__ = ["PollAnswer", "base_headers", "decode_poll", "decode_response", "encode_request", "poll_request"]

JSON_TYPE: Final = "application/json"
PROTOBUF_TYPE: Final = "application/x-protobuf"

_QUEUE_STATES: Final = ("active", "paused_capacity", "paused_rate_limit")
_SYSTEMS: Final = {name: name for name in ("Linux", "Windows", "FreeBSD", "OpenBSD")} | {"Darwin": "MacOS"}
_MACHINES: Final = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64", "arm": "arm", "i686": "x32"}
# What is longer than a day is no pause but a mistake.
_LONGEST_PAUSE_MS: Final = 86_400_000
_NOTHING: Final[Mapping[str, Any]] = {}


def base_headers(api_key: str | None, sdk_version: str) -> dict[str, str]:
    """Return the headers that every request carries (protocol 1.2).

    Args:
        api_key: the credential, sent as ``X-API-Key``; None sends none.
        sdk_version: the version of the official SDK whose behaviour this client has.
    """
    import platform

    system, machine = platform.system(), platform.machine().lower()
    headers = {
        "Accept": JSON_TYPE,
        "User-Agent": f"AsyncTinker/Python {sdk_version}",
        "X-Stainless-Package-Version": sdk_version,
        "X-Stainless-OS": _SYSTEMS.get(system, f"Other:{system}" if system else "Unknown"),
        "X-Stainless-Arch": _MACHINES.get(machine, f"other:{machine}" if machine else "unknown"),
        "X-Stainless-Runtime": platform.python_implementation(),
        "X-Stainless-Runtime-Version": platform.python_version(),
        "X-Stainless-Async": "async:asyncio",
    }
    if api_key:
        headers["X-API-Key"] = api_key
    return headers


def encode_request(
    route: Route,
    message: Any,
    dialect: Dialect,
    *,
    path: Mapping[str, str] = _NOTHING,
    query: Mapping[str, object] = _NOTHING,
    headers: Mapping[str, str] = _NOTHING,
    compress: bool = False,
) -> Request:
    """Return the request that carries ``message``.

    Args:
        route: the endpoint. ``forward`` and ``forward_backward`` go where the dialect has them.
        message: of ``route.request``'s type; for ``GET`` it becomes the query. None where the route has no request.
        dialect: what the server speaks.
        path: values of the path's parameters.
        query: further query entries; None entries are left out.
        headers: such as ``base_headers``; what the encoding decides wins over them.
        compress: send a protobuf body as zstd (flag ``proto_compress_fwdbwd``).

    Raises:
        LocalWireError: the message has no such form; nothing was sent.
    """
    if route.request is not None and message is not None and not isinstance(message, route.request):
        raise LocalWireError(
            f"{route.name}: expected a {route.request.__name__}, got {type(message).__name__}. Pass that type."
        )
    asked, (route, message) = route.name, _placed(route, message, dialect)
    sent = {"Accept": JSON_TYPE, **route.headers}
    for field, name in route.header_fields.items():
        value = getattr(message, field, None)
        if value is not None:
            sent[name] = header_value(name, value)
            message = msgspec.structs.replace(message, **{field: None})
    body = b""
    if route.method == "GET":
        query = {**_query_of(message), **query}
    else:
        sent["Content-Type"] = JSON_TYPE
        if route.protobuf_request and dialect.protobuf:
            body = _protobuf_body(message, compress, sent)
        elif message is not None:
            body = _json_body(route, asked, message, dialect)
    return Request(
        method=route.method,
        path=_path(route, path) + _query(query),
        headers={**headers, **sent},
        body=body,
        timeout=route.timeout,
        pool=route.pool,
    )


def decode_response(route: Route, response: Response) -> Any:
    """Return the typed answer: the route's response, a promise for asynchronous ones, None where nobody looks at it.

    Raises:
        APIStatusError: the leaf for a status that is not 2xx.
        APIConnectionError: a proxy's 400 (see ``proxy_rejection``).
        RemoteWireError: the body is not what the route answers; the text says where.
    """
    what = f"{route.method} {PREFIX}{route.path}"
    if route.located and 300 <= response.status < 400 and response.headers.get("location"):
        return decode_json(route.response, msgspec.json.encode(_location(response)))
    _raise_for_status(response, what)
    if route.response is None:
        return None
    try:
        return decode_json(route.response, response.body)
    except RemoteWireError as error:
        media = response.headers.get("content-type", "")
        if not media or "json" in media:
            raise
        raise RemoteWireError(
            f"{what}: the answer is {media}, not JSON. Check that base_url points to a Tinker server: {error}"
        ) from error


def poll_request(
    request_id: str,
    result_route: Route,
    dialect: Dialect,
    *,
    iteration: int,
    allow_metadata_only: bool,
    roundtrip: float | None = None,
    headers: Mapping[str, str] = _NOTHING,
) -> Request:
    """Return the request that asks for a promise's result (protocol 4.2).

    Args:
        request_id: the promise.
        result_route: the endpoint that gave it.
        dialect: what the server speaks.
        iteration: 0 for the first poll of this promise.
        allow_metadata_only: accept the size alone; False once the room for it is reserved.
        roundtrip: seconds it took to get the promise; sent with the first poll.
        headers: such as ``base_headers``; what the encoding decides wins over them.
    """
    metadata = allow_metadata_only if dialect.metadata_only else None
    fixed = _poll_headers(result_route.request_type, result_route.protobuf_result and dialect.protobuf)
    sent = {**headers, **fixed, "X-Tinker-Request-Iteration": str(iteration)}
    if roundtrip is not None and iteration == 0:
        sent["X-Tinker-Create-Promise-Roundtrip-Time"] = str(roundtrip)
    route = ROUTES["retrieve_future"]
    if dialect.minimal or dialect.dropped or metadata is None:
        message = FutureRetrieveRequest(request_id=request_id, allow_metadata_only=metadata)
        body = _json_body(route, route.name, message, dialect)
    else:
        # The same bytes, for the request that is made most often.
        body = msgspec.json.encode({"request_id": request_id, "allow_metadata_only": metadata})
    return Request(
        method=route.method, path=PREFIX + route.path, headers=sent, body=body, timeout=route.timeout, pool=route.pool
    )


@lru_cache(maxsize=128)
def _poll_headers(request_type: str, protobuf: bool) -> dict[str, str]:
    return {
        **ROUTES["retrieve_future"].headers,
        "Accept": PROTOBUF_TYPE if protobuf else JSON_TYPE,
        "Content-Type": JSON_TYPE,
        "X-Stainless-Raw-Response": "raw",
        "X-Tinker-Request-Type": request_type,
    }


def decode_poll(result_route: Route, response: Response, dialect: Dialect) -> PollAnswer:
    """Return what a poll found (protocol 4.3, in that order; 408 of 4.4).

    A JSON result is taken in every dialect, also where protobuf was asked for.

    Raises:
        APIStatusError: the leaf for a status that is neither 2xx nor 408.
        APIConnectionError: a proxy's 400.
        RemoteWireError: an answer that cannot be read; the text says where.
    """
    if response.status == 408:
        waiting = _object(response.body)
        return Timeout408(_queue_state(waiting, "unknown"), *_why_and_how_long(waiting))
    _raise_for_status(response, f"retrieve_future of {result_route.name}")
    if PROTOBUF_TYPE in response.headers.get("content-type", ""):
        if not result_route.protobuf_result:
            raise RemoteWireError(f"{result_route.name}: a protobuf result, but this operation's results are JSON.")
        from tinkex_actors.wire._codec.protobuf import decode_protobuf

        return Ready(decode_protobuf(result_route.result, response.body))
    probe = _object(response.body)
    if str(probe.get("type")).lower() == "try_again" or probe.get("status") == "pending":
        return TryAgain(_queue_state(probe, "active"), *_why_and_how_long(probe))
    if probe.get("status") == "complete_metadata":
        size = probe.get("response_payload_size", 0)
        if not isinstance(size, int) or size < 0:
            raise RemoteWireError(f"{result_route.name}: response_payload_size is {size!r}, expected bytes >= 0.")
        return MetadataOnly(size)
    if probe.get("error") is not None:
        return _failed(probe)
    # Older servers put the result into an envelope.
    enveloped = probe.get("status") == "completed" and bytes(probe["result"])
    return Ready(decode_json(result_route.result, enveloped or response.body))


def _failed(probe: dict[str, Any]) -> Failed:
    error, category = probe["error"], probe.get("category")
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        error, category = error["message"], category or error.get("category")
    return Failed(_text(error) or "", category if category in ("user", "server") else "unknown")


def _location(response: Response) -> dict[str, Any]:
    # The address is the answer, and how long it holds may be said beside it (protocol appendix B).
    return {"url": response.headers["location"], "expires": response.headers.get("expires")}


class _Probe(msgspec.Struct):
    # Reads only the fields that tell the answers apart; msgspec skips the rest without building it.
    type: Any = None
    status: Any = None
    error: Any = None
    category: Any = None
    response_payload_size: Any = 0
    queue_state: Any = None
    queue_state_reason: Any = None
    retry_after_ms: Any = None
    result: msgspec.Raw = msgspec.Raw()


def _object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.structs.asdict(msgspec.json.decode(body, type=_Probe))
    except (ValueError, RecursionError):
        return {}


def _queue_state(answer: dict[str, Any], default: str) -> str:
    state = answer.get("queue_state")
    return default if state is None else state if state in _QUEUE_STATES else "unknown"


def _why_and_how_long(answer: dict[str, Any]) -> tuple[str | None, float | None]:
    pause = answer.get("retry_after_ms")
    # 0 is a number of milliseconds, and True is none.
    reason = _text(answer.get("queue_state_reason"))
    if isinstance(pause, bool) or not isinstance(pause, (int, float)) or not 0 <= pause <= _LONGEST_PAUSE_MS:
        return reason, None
    return reason, pause / 1000.0


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


def _raise_for_status(response: Response, what: str) -> None:
    if 200 <= response.status < 300:
        return
    raise proxy_rejection(response, what) or classify(response, what)


def _placed(route: Route, message: Any, dialect: Dialect) -> tuple[Route, Any]:
    """Return the route and message of a training pass where the dialect has it; other routes are returned as given."""
    if route.name not in ("forward", "forward_backward") or message is None:
        return route, message
    only = message.forward_only or route.name == "forward"
    message = msgspec.structs.replace(message, forward_only=only)
    own_route = only and not dialect.forward_only_in_forward_backward
    return ROUTES["forward" if own_route else "forward_backward"], message


def _json_body(route: Route, asked: str, message: Any, dialect: Dialect) -> bytes:
    if isinstance(message, SampleRequest) and (dialect.stop_as_list or dialect.max_tokens is not None):
        message = msgspec.structs.replace(message, sampling_params=_explicit(message.sampling_params, dialect))
    return encode_json(
        message,
        omit_none=not route.sends_null,
        minimal=dialect.minimal and not route.sends_null,
        dropped=[path for name, path in dialect.dropped if name in (asked, route.name)],
    )


def _explicit(params: SamplingParams, dialect: Dialect) -> SamplingParams:
    return msgspec.structs.replace(
        params,
        stop=[params.stop] if dialect.stop_as_list and isinstance(params.stop, str) else params.stop,
        max_tokens=dialect.max_tokens if params.max_tokens is None else params.max_tokens,
    )


def _protobuf_body(message: Any, compress: bool, headers: dict[str, str]) -> bytes:
    from tinkex_actors.wire._codec.protobuf import encode_protobuf

    body = encode_protobuf(message)
    headers["Content-Type"] = PROTOBUF_TYPE
    if compress:
        import zstandard

        headers["Content-Encoding"] = "zstd"
        body = zstandard.ZstdCompressor().compress(body)
    return body


def _path(route: Route, values: Mapping[str, str]) -> str:
    filled = route.path
    for name, value in values.items():
        # A checkpoint id holds a slash that travels as it is (protocol 0.3).
        if not value or any(part in ("", ".", "..") for part in value.split("/")):
            raise LocalWireError(f"{route.name}: {name}={value!r} cannot stand in a path. Pass the id as it was given.")
        filled = filled.replace(f"{{{name}}}", quote(value, safe=":/" if name == "checkpoint_id" else ":"))
    if "{" in filled:
        raise LocalWireError(f"{route.name}: the path {filled} lacks a value. Pass it in path=.")
    return PREFIX + filled


def _query_of(message: Any) -> dict[str, Any]:
    return {} if message is None else msgspec.structs.asdict(message)


def _query(entries: Mapping[str, object]) -> str:
    pairs = [
        f"{quote(name)}={quote(text, safe=':,')}" for key, value in entries.items() for name, text in _pairs(key, value)
    ]
    return "?" + "&".join(pairs) if pairs else ""


def _pairs(name: str, value: object) -> list[tuple[str, str]]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _pairs(f"{name}[{key}]", item)]
    if isinstance(value, (list, tuple)):
        return [(name, ",".join(_word(item) for item in value))]
    return [(name, _word(value))]


def _word(value: object) -> str:
    if isinstance(value, datetime):
        return str(msgspec.to_builtins(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
