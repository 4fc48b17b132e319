"""Public test kit: virtual time, exact settling, hangs found at once, seeded orders of execution.

::

    @virtual_time()
    async def test_reminder_comes_after_a_day():
        async with ActorSystem() as system:
            ...
            await asyncio.sleep(86_400)      # takes no time
            await settle()                   # everything that needs no clock has run

    @seeds(200)                              # the same test under 200 orders of execution
    async def test_no_order_loses_a_message():
        async with StrictSystem() as system:
            Faults(system).crash("/worker", within=10)
            ...
"""

from __future__ import annotations

from tinkex_actors.testing.faults import Faults, InjectedFault, Injection
from tinkex_actors.testing.schedule import Schedule
from tinkex_actors.testing.shrinking import shrink
from tinkex_actors.testing.strict import MessagesLost, StrictSystem
from tinkex_actors.testing.virtual_loop import SimDeadlock, VirtualLoop, settle
from tinkex_actors.testing.virtual_time import run_virtual, seeds, virtual_time

__all__ = [
    "Faults",
    "InjectedFault",
    "Injection",
    "MessagesLost",
    "Schedule",
    "SimDeadlock",
    "StrictSystem",
    "VirtualLoop",
    "run_virtual",
    "seeds",
    "settle",
    "shrink",
    "virtual_time",
]
