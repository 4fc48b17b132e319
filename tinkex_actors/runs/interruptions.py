"""Which errors end an opening of a run, and not the run."""

from __future__ import annotations

from tinkex_actors.errors import (
    APIConnectionError,
    APIStatusError,
    ClosedError,
    GoneError,
    NotFoundError,
    OutcomeUnknownError,
    QueuePausedError,
    RemoteWireError,
    RequestFailedError,
    RestartsExhaustedError,
    RunDivergedError,
    SequenceBrokenError,
)

__all__ = ["is_interruption", "leaves_the_model"]

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


def leaves_the_model(error: BaseException) -> bool:
    """Return whether the model of a run that was left by this error may still live, to be gone on with."""
    gone = isinstance(error, (GoneError, NotFoundError, RunDivergedError))
    return isinstance(error, QueuePausedError) or (is_interruption(error) and not gone)
