"""From an HTTP failure to the error of the tree that says whose fault it is and what to do (protocol 1.3, 10)."""

from __future__ import annotations

import math
import re
from datetime import UTC
from typing import Any, Final

import msgspec

from tinkex_actors.errors import APIConnectionError, APIError, APIStatusError, status_error
from tinkex_actors.redaction import redact, redact_value
from tinkex_actors.wire.exchange import Response

__all__ = ["classify", "proxy_rejection"]

# What is kept of a failure's body: far more than any error says, far less than a download that went wrong.
_MAX_BODY_BYTES: Final = 64 * 1024
_MAX_DETAIL_CHARACTERS: Final = 500
_MAX_DETAIL_DEPTH: Final = 4
_TAGS: Final = re.compile(r"<[^>]{0,1000}>")
# What moves a terminal's cursor, colours it, or turns a line's direction.
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")
_SHOULD_RETRY: Final = {"true": True, "false": False}
_CATEGORIES: Final = ("user", "server", "unknown")

_REMEDIES: Final[dict[int, str]] = {
    400: "Correct the request.",
    401: "Check the API key (api_key= or TINKER_API_KEY) and that it belongs to this server.",
    402: "Check the account's billing; the request can be sent again afterwards.",
    403: "Use a key that may do this, or ask the owner of the object for access.",
    404: "Check the id or path, and that base_url points to a Tinker server.",
    408: "Send it again.",
    409: "It exists already or is being changed: choose another name, or look at its present state.",
    410: "The session or the promise has ended: start a new one.",
    413: "Send less at once.",
    415: "The server does not take this encoding; the JSON dialect may work.",
    422: "Correct the named fields.",
    429: "Wait before you send more.",
}


def classify(response: Response, what: str, *, request_id: str | None = None) -> APIStatusError:
    """Return the error for a response whose status is not 2xx.

    Understood bodies: ``{"detail": text | list | object}``, ``{"error": text | {"message"}, "category"}``,
    ``{"message"}``, and plain text or HTML. Credentials, by shape or known to be some, are cut out of message and body.

    Args:
        response: the failed answer.
        what: what was tried, such as ``POST /api/v1/create_model``; begins the message.
        request_id: the promise it belongs to.

    Returns:
        The leaf for the status, with ``retry_after`` in seconds where the server gave a number (``retry-after-ms``
        first, then ``retry-after``, whose date is compared with the header ``date``), and ``should_retry`` as the
        header ``x-should-retry`` says.
    """
    # Servers and proxies like to repeat what they were sent.
    body = redact_value(_parsed(response.body[:_MAX_BODY_BYTES].decode("utf-8", "replace").strip()))
    detail = redact(_detail(body)) or "no detail given"
    status = response.status
    remedy = _REMEDIES.get(status) or (
        "The server's fault: try again, then look at its log." if status >= 500 else "Check base_url and the request."
    )
    return status_error(status)(
        f"{what}: HTTP {status}: {_short(detail).rstrip('.')}. {remedy}",
        status_code=status,
        body=body,
        category=_category(body),
        request_id=request_id,
        retry_after=_retry_after(response.headers),
        should_retry=_SHOULD_RETRY.get(response.headers.get("x-should-retry", "").strip().lower()),
    )


def proxy_rejection(response: Response, what: str) -> APIError | None:
    """Return a connection error for a 400 without a body, which comes from a proxy and not from the API, else None.

    Sending the same request again usually works (protocol 1.5), so it must not look like the caller's fault.
    """
    if response.status != 400 or response.body:
        return None
    return APIConnectionError(
        f"{what}: HTTP 400 with no body: a proxy on the way refused it, not the API. Send it again; if it stays, "
        "check base_url and proxy settings."
    )


def _parsed(text: str) -> Any:
    if not text:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _detail(body: Any, depth: int = 0) -> str:
    if isinstance(body, dict) and depth < _MAX_DETAIL_DEPTH:
        for key in ("detail", "error", "message"):
            if body.get(key):
                return _detail(body[key], depth + 1)
        # FastAPI's 422 items say where and what.
        if "msg" in body:
            place = body.get("loc")
            parts = [str(part) for part in place if part != "body"] if isinstance(place, list) else []
            return ".".join(parts) + (": " if parts else "") + str(body["msg"])
    if isinstance(body, list) and depth < _MAX_DETAIL_DEPTH:
        return "; ".join(filter(None, (_detail(item, depth + 1) for item in body[:5])))
    return "" if body is None else str(body)


def _short(text: str) -> str:
    text = " ".join(text.split())
    if text.startswith("<"):
        # A page for people: its tags say nothing.
        text = " ".join(_TAGS.sub(" ", text).split())
    text = _CONTROLS.sub("\ufffd", text)
    return text if len(text) <= _MAX_DETAIL_CHARACTERS else text[:_MAX_DETAIL_CHARACTERS] + " [cut]"


def _category(body: Any) -> str:
    category = body.get("category") if isinstance(body, dict) else None
    return category if category in _CATEGORIES else "unknown"


def _retry_after(headers: dict[str, str]) -> float | None:
    """Seconds asked for, in whatever form; a date is meant by the server's own clock, which ``date`` tells."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    until, now = _instant(headers.get("retry-after", "")), _instant(headers.get("date", ""))
    return None if until is None or now is None else max(0.0, until - now)


def _instant(text: str) -> float | None:
    if not text:
        return None
    from email.utils import parsedate_to_datetime

    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # RFC 9110: without a zone it is GMT.
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
