"""Whose fault an exception is (protocol 9.5), and what telemetry says of an operation that failed (protocol 9.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinkex_actors.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    ClosedError,
    ConfigError,
    InputError,
    RequestFailedError,
    WireError,
    WrongLoopError,
)

if TYPE_CHECKING:
    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.telemetry.desk import TelemetryDesk

__all__ = ["report_failure", "user_error"]

_REQUEST_TIMEOUT = 408
# This package's own classes for wrong use: no server was asked, so there is no status that would say it.
_WRONG_USE = (ClosedError, ConfigError, InputError, WrongLoopError)

# The official client's names, under which the service knows these events; the first class that fits counts.
_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (APITimeoutError, "timeout"),
    (APIConnectionError, "connection_error"),
    (APIStatusError, "api_status_error"),
    (RequestFailedError, "application_error"),
    (APIResponseValidationError, "validation_error"),
    (WireError, "validation_error"),
)


def report_failure(telemetry: TelemetryDesk, future: ApiFuture[Any], error: BaseException) -> None:
    """Tell telemetry of an operation that the server, or the way to it, made fail; of others nobody is told."""
    kind = next((name for cls, name in _FAILURES if isinstance(error, cls)), None)
    if kind is None:
        return
    users = user_error(error) is not None
    data: dict[str, Any] = {
        "request_type": future.operation,
        "request_id": future.request_id,
        "exception_type": type(error).__name__,
        "exception": str(error),
        "elapsed_time": future.loop.time() - future.created_at,
        "is_user_error": users,
    }
    for name in ("status_code", "category", "should_retry"):
        if (value := getattr(error, name, None)) is not None:
            data[name] = value
    telemetry.note(f"APIFuture.result_async.{kind}", data, "WARNING" if users else "ERROR")


def user_error(error: BaseException) -> BaseException | None:
    """Find the user's error along the chain of causes.

    Looks at the error, then depth first along ``__cause__`` and ``__context__``; cycles end the search. A group is the
    user's if every error in it is. The user's are: an operation that failed with category ``user``, anything with an
    integer ``status_code`` of 400 to 499 except 408, and this package's own errors for wrong use.

    Returns:
        The first such error, or None.
    """
    return _search(error, set())


def _search(error: BaseException, seen: set[int]) -> BaseException | None:
    waiting = [error]
    while waiting:
        at = waiting.pop()
        if id(at) in seen:
            continue
        seen.add(id(at))
        if _is_users(at):
            return at
        if isinstance(at, BaseExceptionGroup):
            blamed = [_search(member, set(seen)) for member in at.exceptions]
            if all(blamed):
                return blamed[0]
        waiting += [link for link in (at.__context__, at.__cause__) if link is not None]
    return None


def _is_users(error: BaseException) -> bool:
    if isinstance(error, RequestFailedError):
        return error.category == "user"
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and 400 <= status < 500 and status != _REQUEST_TIMEOUT:
        return True
    return isinstance(error, _WRONG_USE)
