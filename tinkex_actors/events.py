"""What happens on its own while a program trains and samples: typed events, for ``service.system.events``.

Subscribe to one class, or to everything::

    unsubscribe = service.system.events.subscribe(callback, SessionLost)

``callback`` is called on the loop with the event; what it raises is logged and counted, and disturbs nobody. Events of
the actors themselves (crashes, restarts, dead letters) are in :mod:`tinkex_actors.runtime`.
"""

from tinkex_actors.actors.dispatcher.events import (
    BackoffWindowClosed,
    BackoffWindowOpened,
    SamplingQueuePaused,
    SamplingQueueResumed,
)
from tinkex_actors.actors.explanation import OperationStalled
from tinkex_actors.actors.ledger import OperationLost
from tinkex_actors.actors.link.events import BreakerChanged, CredentialReplaced, RequestCoalesced, StaleAnswerUsed
from tinkex_actors.actors.link.speech import DialectLearnt
from tinkex_actors.actors.loss_events import (
    CustomLossFailed,
    CustomLossStarted,
    CustomLossStopped,
    RegularizerFailed,
    RegularizerStarted,
    RegularizerStopped,
)
from tinkex_actors.actors.recovery import (
    RecoveryCompleted,
    RecoveryDetected,
    RecoveryExhausted,
    RecoveryFailed,
    RecoveryLookFailed,
    RecoveryStarted,
)
from tinkex_actors.actors.sequencer.events import QueuePaused, QueueResumed, SequenceBroken
from tinkex_actors.actors.session.events import (
    ConfigRefreshed,
    HeartbeatDelayed,
    SessionDegraded,
    SessionEnded,
    SessionFinished,
    SessionLost,
    SessionRecovered,
    SessionStarted,
)

__all__ = [
    "BackoffWindowClosed",
    "BackoffWindowOpened",
    "BreakerChanged",
    "ConfigRefreshed",
    "CredentialReplaced",
    "CustomLossFailed",
    "CustomLossStarted",
    "CustomLossStopped",
    "DialectLearnt",
    "HeartbeatDelayed",
    "OperationLost",
    "OperationStalled",
    "QueuePaused",
    "QueueResumed",
    "RecoveryCompleted",
    "RecoveryDetected",
    "RecoveryExhausted",
    "RecoveryFailed",
    "RecoveryLookFailed",
    "RecoveryStarted",
    "RegularizerFailed",
    "RegularizerStarted",
    "RegularizerStopped",
    "RequestCoalesced",
    "SamplingQueuePaused",
    "SamplingQueueResumed",
    "SequenceBroken",
    "SessionDegraded",
    "SessionEnded",
    "SessionFinished",
    "SessionLost",
    "SessionRecovered",
    "SessionStarted",
    "StaleAnswerUsed",
]
