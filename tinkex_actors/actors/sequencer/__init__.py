"""One model's training requests, on the wire in the order of the calls (protocol part 6).

A call runs the machine at once: its numbers are allotted and its future is registered before it returns. The actor only
performs what the machine says.
"""

from tinkex_actors.actors.sequencer.calls import Chunk, Reservation
from tinkex_actors.actors.sequencer.desk import Discipline, SequencerDesk
from tinkex_actors.actors.sequencer.events import QueuePaused, QueueResumed, SequenceBroken
from tinkex_actors.actors.sequencer.shell import Sequencer

__all__ = [
    "Chunk",
    "Discipline",
    "QueuePaused",
    "QueueResumed",
    "Reservation",
    "SequenceBroken",
    "Sequencer",
    "SequencerDesk",
]
