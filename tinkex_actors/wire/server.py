"""The server's direction: requests to messages, messages to responses. Both dialects are understood at once."""

from __future__ import annotations

import io
import re
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import msgspec

from tinkex_actors.errors import RemoteWireError
from tinkex_actors.types import (
    ForwardBackwardRequest,
    MetadataOnlyResponse,
    RequestFailedResponse,
    TryAgainResponse,
)
from tinkex_actors.wire._codec.read_json import decode_json
from tinkex_actors.wire._codec.write_json import encode_json
from tinkex_actors.wire.exchange import Request, Response, header, header_value
from tinkex_actors.wire.routes import PREFIX, ROUTES, Route

__all__ = [
    "decode_request",
    "encode_error",
    "encode_failure",
    "encode_metadata_only",
    "encode_response",
    "encode_result",
    "encode_try_again",
    "match",
]

JSON_TYPE: Final = "application/json"
PROTOBUF_TYPE: Final = "application/x-protobuf"

# What a compressed body may grow to: far above any chunk (protocol 5.2), far below a machine's memory.
MAX_BODY_BYTES: Final = 256 * 1024 * 1024


def match(request: Request) -> tuple[Route, dict[str, str]] | None:
    """Return the route of a request and its path parameters, decoded; None when there is no such endpoint.

    A path in front of ``/api/v1/`` is skipped, as a base URL may have one.
    """
    path = request.path.partition("?")[0]
    _, found, rest = path.partition(PREFIX + "/")
    if not found:
        return None
    for route, pattern in _patterns():
        if route.method == request.method and (hit := pattern.fullmatch("/" + rest)):
            return route, {name: unquote(value) for name, value in hit.groupdict().items()}
    return None


def decode_request(route: Route, request: Request) -> Any:
    """Return the request's message: of the body, or for ``GET`` of the query; None where the route has none.

    The body is protobuf or JSON as its ``Content-Type`` says, plain or zstd as its ``Content-Encoding`` says. On the
    training routes both keys of the JSON dialect are accepted. Unknown fields are ignored.

    Raises:
        RemoteWireError: naming the place in the payload; the answer to it is a 4xx.
    """
    if route.request is None:
        return None
    message = _decode_message(route, request)
    given = {field: header(request.headers, name) for field, name in route.header_fields.items()}
    return msgspec.structs.replace(message, **{k: v for k, v in given.items() if v}) if any(given.values()) else message


def _decode_message(route: Route, request: Request) -> Any:
    if route.method == "GET":
        entries = dict(parse_qsl(request.path.partition("?")[2], keep_blank_values=True))
        return decode_json(route.request, msgspec.json.encode(entries))
    body = _plain_body(request)
    if PROTOBUF_TYPE in header(request.headers, "content-type"):
        if not route.protobuf_request:
            raise RemoteWireError(f"{route.name}: the body is protobuf, but this endpoint takes {JSON_TYPE}.")
        from tinkex_actors.wire._codec.protobuf import decode_protobuf

        message = decode_protobuf(route.request, body)
    else:
        message = decode_json(route.request, body)
    if route.name == "forward" and isinstance(message, ForwardBackwardRequest):
        return msgspec.structs.replace(message, forward_only=True)
    return message


def encode_response(route: Route, message: Any, status: int = 200) -> Response:
    """Return a direct answer, or the promise of an asynchronous endpoint, as JSON.

    Args:
        route: the endpoint; where nobody looks at its answer, ``message`` may be None. Of a ``located`` one the answer
            is a redirect, whatever ``status`` says.
        message: of ``route.response``'s type.
        status: the HTTP status.

    Raises:
        LocalWireError: the message has no JSON form.
    """
    if route.located:
        return _redirect(message)
    return _json_response({} if message is None else message, status)


def encode_result(route: Route, result: Any, accept: str) -> Response:
    """Return a finished promise's result: protobuf where ``accept`` asks for it and the route has it, else JSON.

    Raises:
        LocalWireError: the result has no such form.
    """
    if route.protobuf_result and PROTOBUF_TYPE in accept:
        from tinkex_actors.wire._codec.protobuf import encode_protobuf

        return _response(encode_protobuf(result), PROTOBUF_TYPE, 200)
    return _json_response(result, 200)


def encode_failure(error: str, category: str) -> Response:
    """Return the answer of a promise whose operation failed; ``category`` is ``user``, ``server`` or ``unknown``."""
    known: Any = category if category in ("user", "server") else "unknown"
    return _json_response(RequestFailedResponse(error=error, category=known), 200)


def encode_try_again(
    request_id: str,
    queue_state: str,
    reason: str | None = None,
    status: int = 200,
    *,
    retry_after: float | None = None,
) -> Response:
    """Return the answer of a promise that is not done; ``status`` 408 is the other way to say it (protocol 4.4).

    ``retry_after`` is in seconds, and travels as milliseconds.
    """
    state: Any = queue_state
    pause = None if retry_after is None else round(retry_after * 1000)
    answer = TryAgainResponse(request_id=request_id, queue_state=state, queue_state_reason=reason, retry_after_ms=pause)
    return _json_response(answer, status)


def encode_metadata_only(size_bytes: int) -> Response:
    """Return the answer of a promise that is done and ``size_bytes`` large, to a client that asked for the size."""
    return _json_response(MetadataOnlyResponse(response_payload_size=size_bytes), 200)


def encode_error(status: int, detail: str, *, retry_after: float | None = None) -> Response:
    """Return an HTTP failure ``{"detail": ...}``; never without a body, which would look like a proxy's (protocol 1.5).

    Args:
        status: 300 and above.
        detail: what was wrong and what to do.
        retry_after: seconds the client should wait.
    """
    response = _json_response({"detail": detail or f"HTTP {status}"}, status)
    if retry_after is not None:
        response.headers["retry-after"] = f"{retry_after:g}"
    return response


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[Route, re.Pattern[str]], ...]:
    def pattern(route: Route) -> re.Pattern[str]:
        parts = re.split(r"\{(\w+)\}", route.path)
        segments = [
            f"(?P<{part}>{'[^/]+/[^/]+' if part == 'checkpoint_id' else '[^/]+'})" if at % 2 else re.escape(part)
            for at, part in enumerate(parts)
        ]
        return re.compile("".join(segments))

    return tuple((route, pattern(route)) for route in ROUTES.values())


def _plain_body(request: Request) -> bytes:
    encoding = header(request.headers, "content-encoding").strip().lower()
    if encoding in ("", "identity"):
        return request.body
    if encoding != "zstd":
        raise RemoteWireError(f"Content-Encoding {encoding!r} is not understood; send the body plain or as zstd.")
    import zstandard

    try:
        declared = zstandard.frame_content_size(request.body)
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(request.body)) as reader:
            body: bytes = reader.read(MAX_BODY_BYTES + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise RemoteWireError(f"the body is not a zstd frame: {error}") from error
    if len(body) > MAX_BODY_BYTES:
        raise RemoteWireError(f"the body is larger than {MAX_BODY_BYTES} bytes when decompressed; send smaller chunks.")
    if declared >= 0 and declared != len(body):
        raise RemoteWireError(f"the zstd frame ends after {len(body)} of {declared} bytes; send it again, whole.")
    return body


def _json_response(message: Any, status: int) -> Response:
    return _response(encode_json(message, finite=False), JSON_TYPE, status)


def _redirect(message: Any) -> Response:
    response = _json_response(message, 302)
    response.headers["location"] = header_value("location", message.url)
    if message.expires is not None:
        response.headers["expires"] = header_value("expires", message.expires)
    return response


def _response(body: bytes, content_type: str, status: int) -> Response:
    return Response(status, {"content-type": content_type, "content-length": str(len(body))}, body)
