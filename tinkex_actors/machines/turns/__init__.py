"""The order of one model's training requests on the wire.

Rules (protocol 6.2 and 6.3, architecture section 5):

1. Wire numbers start at 1, are allotted contiguously at the call, in call order, and never change.
2. One call at a time holds the turn: no number of a later call is posted before every number of the earlier calls has
   been answered (posted or rejected). Results are not awaited, only the answers to the posts; a sequence that
   ``awaits_results`` awaits them too, for servers that execute what comes as it comes.
3. Within a parallel call of n > 1 chunks, chunks 2..n are posted at once and chunk 1 after all of those have been
   answered: the server cannot start before the lowest number, so it finds the batch complete. Any other call posts its
   chunks one after the other, and so does every call of a sequence that ``awaits_results``.
4. A rejected number is completed by its rejection; the numbers after it go on, also within the same call, because a
   number left out would be a gap.
5. A lost number (outcome unknown, or not delivered after all retries) breaks the sequence: nothing more is posted, all
   calls behind it are broken, and later submissions are refused.
6. A cancelled call is withdrawn only if none of its posts has started and every call after it has been cancelled too:
   then its numbers are the last allotted and are given back. Otherwise it runs, and its result is for nobody.
7. A held call keeps its numbers, and everything behind it waiting, until it is released. One that is abandoned, or
   cancelled while it is held, is withdrawn as by rule 6, or its numbers are filled: something harmless is posted under
   them, so that no gap is left.
8. A gradient that is refused or fails stops the optimizer step that was to apply it: a call that ``applies``, was made
   before its caller had seen the failure, and has not been posted is skipped, and its number given back or filled.
   Where other parts of the gradient were taken, every such call is skipped, because those parts wait in the model for
   whichever step comes next. A call made with the failure seen runs: that is its caller's decision.

::

    held -> waiting -> posting -> done                     (all numbers posted or rejected)
      |        |          |-----> running -> done          (where results are awaited)
      |        |          `-----> done, sequence broken    (a number lost)
      `--------'----> withdrawn | broken | skipped or abandoned -> filling -> done
"""

from tinkex_actors.machines.turns.answers import broken, failed, finished, lost, posted, rejected
from tinkex_actors.machines.turns.calls import Broken, Effect, Kind, Post, Skipped, Turns, Withdrawn
from tinkex_actors.machines.turns.order import abandoned, advance, cancelled, outstanding, position, release, submit

__all__ = [
    "Broken",
    "Effect",
    "Kind",
    "Post",
    "Skipped",
    "Turns",
    "Withdrawn",
    "abandoned",
    "advance",
    "broken",
    "cancelled",
    "failed",
    "finished",
    "lost",
    "outstanding",
    "position",
    "posted",
    "rejected",
    "release",
    "submit",
]
