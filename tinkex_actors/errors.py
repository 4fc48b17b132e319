"""Every error this package raises, in one tree.

::

    TinkexError
    ├── ConfigError                     you: an argument, a variable or a path is not usable
    │   ├── CredentialsError            no key (or one of the wrong shape) for a remote server
    │   ├── TokenizerNotLoadedError     ``tokenizer`` read before ``get_tokenizer()`` was awaited
    │   └── ModelNotInstalledError      a local model whose weights are not on this machine
    ├── InputError                      you: data that no server could accept
    │   └── TinkerPathError             a ``tinker://`` path that cannot be parsed
    ├── ClosedError                     you: a call on something you closed
    ├── WrongLoopError                  you: a client used from another event loop or thread
    ├── ActorError                      an actor could not do what it was asked
    │   ├── ActorStoppedError           it stopped (or was never there)
    │   ├── ActorCrashedError           its handler was cancelled under it
    │   ├── ActorRestartedError         it restarted and policy dropped the queued call; safe to retry
    │   ├── CallTimeoutError            no reply within the deadline
    │   ├── CallCycleError              the call would wait for itself; the ring is named
    │   ├── MailboxFullError            its mailbox is full and policy says raise
    │   ├── StartFailedError            its ``init`` failed
    │   ├── RestartsExhaustedError      it crashed more often than its supervisor allows
    │   └── StopTimeoutError            somebody did not stop within the deadline
    ├── WireError                       bytes and messages do not fit together
    │   ├── LocalWireError              we could not encode it
    │   └── RemoteWireError             we could not read what the other side sent
    ├── LossError                       a loss function misbehaved
    │   ├── ShapeMismatchError
    │   └── NonFiniteLossError
    ├── RunError                        a durable run cannot be opened or go on
    │   ├── RunLockedError              another living process writes to it
    │   ├── RunDivergedError            what is repeated differs from what was done before
    │   └── JournalDamagedError         its journal cannot be read; the message has the way back
    └── TinkerError                     the service, or the way to it
        ├── APIError
        │   ├── APIResponseValidationError
        │   ├── APIConnectionError      no usable answer
        │   │   ├── APITimeoutError
        │   │   └── CircuitOpenError    not sent: the last requests of its group failed
        │   └── APIStatusError          an HTTP status of 300 and above
        │       ├── BadRequestError 400          ├── AuthenticationError 401
        │       ├── BillingError 402             ├── PermissionDeniedError 403
        │       ├── NotFoundError 404            ├── ConflictError 409
        │       ├── GoneError 410                ├── UnprocessableEntityError 422
        │       ├── RateLimitError 429           └── InternalServerError 500 and above
        ├── RequestFailedError          the server ran the operation and it failed
        ├── UnsupportedByServerError    this server lacks the feature
        ├── SequenceBrokenError         an earlier training request was lost; this one cannot run
        ├── GradientMissingError        an optimizer step that was not sent: its gradient had failed
        ├── QueuePausedError            the server's queue was paused for longer than you allowed
        └── OutcomeUnknownError         sent, no answer, and the server may or may not have applied it

The class says whose fault it is, the attributes say which object, and the message ends with what to do next. All of
them pickle. None carries a credential.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "ActorCrashedError",
    "ActorError",
    "ActorRestartedError",
    "ActorStoppedError",
    "AuthenticationError",
    "BadRequestError",
    "BillingError",
    "CallCycleError",
    "CallTimeoutError",
    "CircuitOpenError",
    "ClosedError",
    "ConfigError",
    "ConflictError",
    "CredentialsError",
    "GoneError",
    "GradientMissingError",
    "InputError",
    "InternalServerError",
    "JournalDamagedError",
    "LocalWireError",
    "LossError",
    "MailboxFullError",
    "ModelNotInstalledError",
    "NonFiniteLossError",
    "NotFoundError",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "QueuePausedError",
    "RateLimitError",
    "RemoteWireError",
    "RequestFailedError",
    "RestartsExhaustedError",
    "RunDivergedError",
    "RunError",
    "RunLockedError",
    "SequenceBrokenError",
    "ShapeMismatchError",
    "StartFailedError",
    "StopTimeoutError",
    "TinkerError",
    "TinkerPathError",
    "TinkexError",
    "TokenizerNotLoadedError",
    "UnprocessableEntityError",
    "UnsupportedByServerError",
    "WireError",
    "WrongLoopError",
    "status_error",
]


def _rebuild(cls: type[TinkexError], message: str, state: dict[str, Any]) -> TinkexError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class TinkexError(Exception):
    """The root: catch it to catch everything this package raises on purpose.

    Args:
        message: what happened, to which object, what was expected, and what to do next.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)

    @property
    def message(self) -> str:
        """The text, as given."""
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> Any:
        # Keyword-only constructors of the leaves do not survive Exception's own pickling.
        return _rebuild, (type(self), self.message, dict(self.__dict__))


# --- yours ---------------------------------------------------------------------------------------------------------
class ConfigError(TinkexError):
    """An argument, an environment variable or a path is not usable; the message names it."""


class CredentialsError(ConfigError):
    """No usable API key for a remote server: pass ``api_key=`` or set ``TINKER_API_KEY``."""


class TokenizerNotLoadedError(ConfigError):
    """``training.tokenizer`` was read before ``await training.get_tokenizer()``."""


class ModelNotInstalledError(ConfigError):
    """A local model's weights are not on this machine; the message has the line that installs them."""


class InputError(TinkexError, ValueError):
    """Data no server could accept; the message names the datum, the field, what was expected and what came."""


class TinkerPathError(InputError):
    """A path that is not ``tinker://{training_run_id}/{kind}/{name}``."""


class ClosedError(TinkexError):
    """A call on a client, engine or system that was closed. Make a new one."""


class WrongLoopError(TinkexError, RuntimeError):
    """A client belongs to one event loop; this call came from another loop or thread."""


# --- actors --------------------------------------------------------------------------------------------------------
class ActorError(TinkexError):
    """An actor could not do what it was asked.

    Attributes:
        actor: the actor's path, such as ``/service/core/poller``.
    """

    def __init__(self, message: str = "", *, actor: str = "") -> None:
        super().__init__(message)
        self.actor = actor


class ActorStoppedError(ActorError):
    """The actor stopped, is stopping, or was never there."""


class ActorCrashedError(ActorError):
    """The handler was cancelled under the actor, by nobody who was asked to."""


class ActorRestartedError(ActorError):
    """The actor restarted and its policy fails queued calls. The handler never ran: the call is safe to repeat."""


class CallTimeoutError(ActorError, TimeoutError):
    """No reply within the deadline. The handler may still run; its late reply is dropped."""

    def __init__(self, message: str = "", *, actor: str = "", timeout: float = 0.0) -> None:
        super().__init__(message, actor=actor)
        self.timeout = timeout


class CallCycleError(ActorError):
    """The call would wait for itself. ``ring`` names the actors, first and last being the same."""

    def __init__(self, message: str = "", *, actor: str = "", ring: tuple[str, ...] = ()) -> None:
        super().__init__(message, actor=actor)
        self.ring = ring


class MailboxFullError(ActorError):
    """The receiver's mailbox is full. Use ``await ref.send...`` to wait for room."""

    def __init__(self, message: str = "", *, actor: str = "", capacity: int = 0) -> None:
        super().__init__(message, actor=actor)
        self.capacity = capacity


class StartFailedError(ActorError):
    """``__init__`` or ``init`` raised; the cause is attached."""


class RestartsExhaustedError(ActorError):
    """An actor crashed more often than its supervisor allows, and its supervisor gave up; the cause is attached."""


class StopTimeoutError(ActorError):
    """Somebody did not stop within the deadline. ``report`` says who."""

    def __init__(self, message: str = "", *, actor: str = "", report: object = None) -> None:
        super().__init__(message, actor=actor)
        self.report = report


# --- wire ----------------------------------------------------------------------------------------------------------
class WireError(TinkexError):
    """Bytes and messages do not fit together."""


class LocalWireError(WireError):
    """We could not encode the message; nothing was sent."""


class RemoteWireError(WireError):
    """We could not read what the other side sent; the message has the place in the payload."""


# --- losses --------------------------------------------------------------------------------------------------------
class LossError(TinkexError):
    """A loss function misbehaved."""


class ShapeMismatchError(LossError):
    """An array has a shape the loss cannot take."""


class NonFiniteLossError(LossError):
    """A loss or a gradient is NaN or infinite; the message names the datum and the token."""


# --- durable runs --------------------------------------------------------------------------------------------------
class RunError(TinkexError):
    """A durable run cannot be opened, or cannot go on.

    Attributes:
        path: the run's folder.
    """

    def __init__(self, message: str = "", *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class RunLockedError(RunError):
    """Another living process has the run open.

    Attributes:
        pid: its process id, 0 where it is not known.
        host: the machine it runs on.
        since: when it opened the run, as a date and time of ISO 8601.
    """

    def __init__(self, message: str = "", *, path: str = "", pid: int = 0, host: str = "", since: str = "") -> None:
        super().__init__(message, path=path)
        self.pid = pid
        self.host = host
        self.since = since


class RunDivergedError(RunError):
    """A step that is repeated under its old numbers differs from what was sent before. Open the run again."""


class JournalDamagedError(RunError):
    """The journal of a run cannot be read, or is no journal of ours; the message has the way back."""


# --- the service ---------------------------------------------------------------------------------------------------
class TinkerError(TinkexError):
    """The service, or the way to it (official name)."""


class APIError(TinkerError):
    """An exchange with the API failed.

    Attributes:
        body: the decoded JSON answer, its text, or None.
    """

    def __init__(self, message: str = "", *, body: object = None) -> None:
        super().__init__(message)
        self.body = body


class APIResponseValidationError(APIError):
    """The answer's shape is not the documented one."""


class APIConnectionError(APIError):
    """No usable answer: the connection failed or broke. Check the base URL and that the server is up.

    Attributes:
        sent: False where the request certainly never left this machine; True where it may have arrived.
    """

    def __init__(self, message: str = "", *, body: object = None, sent: bool = True) -> None:
        super().__init__(message, body=body)
        self.sent = sent


class APITimeoutError(APIConnectionError, TimeoutError):
    """No answer in time."""


class CircuitOpenError(APIConnectionError):
    """Not sent: the last requests of its group failed, and ``Config.breaker`` leaves the server alone for a while.

    Attributes:
        group: the requests that are refused.
        retry_after: seconds after which another one may go.
    """

    def __init__(self, message: str = "", *, group: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message, sent=False)
        self.group = group
        self.retry_after = retry_after


class APIStatusError(APIError):
    """An HTTP status that means failure.

    Attributes:
        status_code: the HTTP status.
        category: ``user``, ``server`` or ``unknown``: whose fault the server says it is.
        request_id: the promise it belongs to, if there is one.
        retry_after: seconds the server asked us to wait, or None.
        should_retry: the server's ``x-should-retry``; None where it is silent.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int = 0,
        body: object = None,
        category: str = "unknown",
        request_id: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message, body=body)
        self.status_code = status_code
        self.category = category
        self.request_id = request_id
        self.retry_after = retry_after
        self.should_retry = should_retry

    @property
    def retryable(self) -> bool:
        """Whether sending the same request again may succeed (protocol 1.5)."""
        return self.status_code in (408, 409, 429) or self.status_code >= 500


class BadRequestError(APIStatusError):
    """400: the server could not make sense of the request."""


class AuthenticationError(APIStatusError):
    """401: the key is not accepted."""


class BillingError(APIStatusError):
    """402: the account cannot pay."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not do this."""


class NotFoundError(APIStatusError):
    """404: no such object, or no such route."""


class ConflictError(APIStatusError):
    """409: it exists already, or somebody else changed it."""


class GoneError(APIStatusError):
    """410: the session or the promise has ended."""


class UnprocessableEntityError(APIStatusError):
    """422: understood and refused."""


class RateLimitError(APIStatusError):
    """429: too much at once."""


class InternalServerError(APIStatusError):
    """500 and above: the server's fault."""


class RequestFailedError(TinkerError):
    """The server accepted the operation, ran it, and it failed.

    Attributes:
        request_id: the promise.
        category: ``user``, ``server`` or ``unknown``.
    """

    def __init__(self, message: str = "", *, request_id: str = "", category: str = "unknown") -> None:
        super().__init__(message)
        self.request_id = request_id
        self.category = category


class UnsupportedByServerError(TinkerError):
    """This server lacks the feature; ``remedy`` says what to do instead."""

    def __init__(self, message: str = "", *, feature: str = "", server: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.feature = feature
        self.server = server
        self.remedy = remedy


class SequenceBrokenError(TinkerError):
    """An earlier training request of this model never reached the server, so this one cannot be applied in order.

    Create a client from the last checkpoint (``create_training_client_from_state_with_optimizer``) and go on there.
    """

    def __init__(self, message: str = "", *, model_id: str = "", first_failed_seq_id: int = 0) -> None:
        super().__init__(message)
        self.model_id = model_id
        self.first_failed_seq_id = first_failed_seq_id


class GradientMissingError(TinkerError):
    """An ``optim_step`` that was not sent, because a ``forward_backward`` before it failed: its gradient is not whole.

    Look at that call's error first. An ``optim_step`` that is called after that is sent, with what gradient there is.

    Attributes:
        model_id: the model.
        failed_seq_id: number of the request whose gradient is missing.
        leftover: other parts of the gradient are in the model and will be part of the next step; loading a checkpoint
            (``load_state_with_optimizer``) drops them.
    """

    def __init__(
        self, message: str = "", *, model_id: str = "", failed_seq_id: int = 0, leftover: bool = False
    ) -> None:
        super().__init__(message)
        self.model_id = model_id
        self.failed_seq_id = failed_seq_id
        self.leftover = leftover


class QueuePausedError(TinkerError):
    """The server's queue was paused for longer than ``Config.pause_deadline``.

    What had been sent may still be applied. Create a client from the last checkpoint when the queue is active again.

    Attributes:
        model_id: the model.
        reason: the server's words.
        paused_for: seconds.
    """

    def __init__(self, message: str = "", *, model_id: str = "", reason: str = "", paused_for: float = 0.0) -> None:
        super().__init__(message)
        self.model_id = model_id
        self.reason = reason
        self.paused_for = paused_for


class OutcomeUnknownError(TinkerError):
    """A training request was sent and no answer came: the server may or may not have applied it.

    Its cause is the last failure. Nothing was sent after it. Create a client from the last checkpoint
    (``create_training_client_from_state_with_optimizer``) and go on there.

    Attributes:
        model_id: the model.
        seq_id: the request's number.
    """

    def __init__(self, message: str = "", *, model_id: str = "", seq_id: int = 0) -> None:
        super().__init__(message)
        self.model_id = model_id
        self.seq_id = seq_id


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: BillingError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def status_error(status: int) -> type[APIStatusError]:
    """Return the class for an HTTP status: the leaf of the tree, or ``APIStatusError`` for the rest."""
    return _BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)
