"""What a quirky engine does to requests and responses on their way in and out (see ``wire.quirks``)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tinkex_actors.types import ForwardBackwardOutput, OptimStepResponse, SampleResponse
from tinkex_actors.wire.exchange import Response, header
from tinkex_actors.wire.quirks import unknown_fields
from tinkex_actors.wire.server import encode_error, encode_try_again

if TYPE_CHECKING:
    from tinkex_actors.engine.service.call import EngineOptions
    from tinkex_actors.wire.exchange import Request
    from tinkex_actors.wire.routes import Route

__all__ = ["incoming", "outgoing", "provoked", "refusal", "result"]

_OURS = re.compile(rb'tinker://([^/"]+)/(weights|sampler_weights|external_weights)/([^/"]+)')
_THEIRS = re.compile(rb'ckpt://([^!"]+)!(\w+)!([^!"]+)')

_NOT_PERMITTED = "Extra inputs are not permitted"
_PLAIN = "text/plain; charset=utf-8"


def provoked(route: Route, request: Request, options: EngineOptions, now: float) -> Response | None:
    """Return the answer that was asked for in place of the right one, or None."""
    status = options.provocations.status(route.name, now)
    if status is None:
        return None
    if status == 408 and route.name == "retrieve_future":
        asked = msgspec.json.decode(request.body, type=dict[str, Any])
        return encode_try_again(str(asked.get("request_id", "")), "paused_capacity", "provoked", status=408)
    text = f"This engine was told to answer {route.name} with {status}."
    return encode_error(status, text, retry_after=1.0 if status == 429 else None)


def refusal(route: Route, request: Request, options: EngineOptions) -> Response | None:
    """Return what a server of these options answers before it understands a request, or None.

    Numbers of refused training requests stay free: the same request may come again in another form.
    """
    quirks = options.quirks
    if "protobuf" in header(request.headers, "content-type"):
        if quirks.protobuf_crashes:
            return Response(500, {"content-type": _PLAIN}, b"Internal Server Error")
        if options.lacks("protobuf"):
            return encode_error(415, "This engine speaks JSON only. Send application/json.")
        return None
    if quirks.refuses_json and route.protobuf_request:
        return encode_error(415, f"{route.name}: expected application/x-protobuf.")
    if route.request is None or route.method == "GET":
        return None
    problems = []
    if options.strict or quirks.unknown_fields or quirks.old_fields:
        problems = [
            {
                "type": "extra_forbidden",
                "loc": ["body", *where],
                "msg": "Extra inputs are not permitted",
                "input": value,
            }
            for where, value in unknown_fields(route, request.body, old=quirks.old_fields)
        ]
    problems += _missing(route, request.body, options)
    return _unprocessable(problems) if problems else None


def _missing(route: Route, body: bytes, options: EngineOptions) -> list[dict[str, Any]]:
    quirks = options.quirks
    concerned = (route.name == "asample" and (quirks.needs_max_tokens or quirks.needs_stop_list)) or (
        route.name == "load_weights" and quirks.load_needs_model
    )
    try:
        given = msgspec.json.decode(body) if concerned else None
    except msgspec.DecodeError:
        return []
    if not isinstance(given, dict):
        return []
    if route.name == "load_weights":
        return [] if given.get("model_id") else [_required("model_id")]
    params = given.get("sampling_params")
    params = params if isinstance(params, dict) else {}
    problems = []
    if quirks.needs_max_tokens and params.get("max_tokens") is None:
        problems.append(_required("sampling_params", "max_tokens"))
    if quirks.needs_stop_list and isinstance(params.get("stop"), str):
        where = ["body", "sampling_params", "stop"]
        found = {"type": "list_type", "loc": where, "msg": "Input should be a valid list", "input": params["stop"]}
        problems.append(found)
    return problems


def _required(*where: str) -> dict[str, Any]:
    return {"type": "missing", "loc": ["body", *where], "msg": "Field required"}


def _unprocessable(problems: list[dict[str, Any]]) -> Response:
    body = msgspec.json.encode({"detail": problems})
    return Response(422, {"content-type": "application/json", "content-length": str(len(body))}, body)


def incoming(request: Request, options: EngineOptions) -> Request:
    """Return a request in the engine's own terms."""
    if options.quirks.opaque_paths and _THEIRS.search(request.body):
        return msgspec.structs.replace(request, body=_THEIRS.sub(rb"tinker://\1/\2/\3", request.body))
    return request


def outgoing(route: Route, response: Response, options: EngineOptions) -> Response:
    """Return a response in the terms of a server of these options."""
    quirks, body, headers = options.quirks, response.body, dict(response.headers)
    if quirks.opaque_paths and "json" in header(headers, "content-type"):
        body = _OURS.sub(rb"ckpt://\1!\2!\3", body)
    if quirks.plain_errors and response.status >= 400:
        told = msgspec.json.decode(body).get("detail") if "json" in header(headers, "content-type") else None
        body = told.encode() if isinstance(told, str) else body
        headers["content-type"] = _PLAIN
    headers["content-length"] = str(len(body))
    status = quirks.submit_status if response.status == 200 and route.asynchronous else response.status
    return Response(status, headers, body)


def result(found: Any, options: EngineOptions) -> Any:
    """Return a promise's result as a server of these options gives it."""
    quirks = options.quirks
    if quirks.empty_metrics and isinstance(found, ForwardBackwardOutput | OptimStepResponse):
        return msgspec.structs.replace(found, metrics={})
    if quirks.short_prompt_logprobs and isinstance(found, SampleResponse) and found.prompt_logprobs_np is not None:
        return msgspec.structs.replace(found, prompt_logprobs_np=np.asarray(found.prompt_logprobs_np)[1:])
    return found
