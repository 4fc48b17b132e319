"""Which errors end an opening of a run, and not the run."""

from __future__ import annotations

from tinkex_actors.errors import (
    APIConnectionError,
    APIStatusError,
    ClosedError,
    GoneError,
    NotFoundError,
    OutcomeUnknownError,
    RemoteWireError,
    RequestFailedError,
    RestartsExhaustedError,
    RunDivergedError,
    SequenceBrokenError,
)

__all__ = ["is_interruption"]

_PASSING = (
    APIConnectionError,
    ClosedError,
    GoneError,
    NotFoundError,
    OutcomeUnknownError,
    RemoteWireError,
    RestartsExhaustedError,
    RunDivergedError,
    SequenceBrokenError,
)


def is_interruption(error: BaseException) -> bool:
    """Return whether a run that was left by this error may go on when it is opened again, with a new service.

    True for a server that was away, that has forgotten the model or ended the session, and for requests that were lost;
    false for what would happen again: wrong data, a wrong key, a request that the server has computed and refused.
    """
    if isinstance(error, RequestFailedError):
        return error.category != "user"
    if isinstance(error, APIStatusError) and error.retryable:
        return True
    return isinstance(error, _PASSING)
