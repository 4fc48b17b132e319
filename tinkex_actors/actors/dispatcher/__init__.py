"""Samples: admitted by budget, held back by the back-off window, polled, and sent again when their promise is lost.

(Protocol part 7.) A call costs one small record until it is admitted; nothing of it passes through a mailbox.
"""

from tinkex_actors.actors.dispatcher.desk import DispatcherDesk, Peers
from tinkex_actors.actors.dispatcher.events import (
    BackoffWindowClosed,
    BackoffWindowOpened,
    SamplingQueuePaused,
    SamplingQueueResumed,
)
from tinkex_actors.actors.dispatcher.sample import SamplerSession
from tinkex_actors.actors.dispatcher.shell import Dispatcher

__all__ = [
    "BackoffWindowClosed",
    "BackoffWindowOpened",
    "Dispatcher",
    "DispatcherDesk",
    "Peers",
    "SamplerSession",
    "SamplingQueuePaused",
    "SamplingQueueResumed",
]
