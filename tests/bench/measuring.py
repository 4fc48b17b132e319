"""One subject of the actor bench, measured in a process of its own: prints a JSON object of value by measure.

    python -m tests.bench.measuring SUBJECT LOOP SCALE

Rates are thousands of operations per second of this process's CPU time; the other measures say their unit.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import statistics
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from tests.bench.actor_subjects import AsyncLink, AsyncSink, Measure, Ours, RawCallSoon, RawQueue, Sink
from tests.bench.contenders import CONTENDERS
from tinkex_actors.runtime import Actor, ActorRef, ActorSystem, handler
from tinkex_actors.runtime._core.scheduler import Scheduler

__all__ = ["SUBJECTS", "loop_factory", "measure"]

COUNTS = {
    "tell": 100_000,
    "tell, all queued at once": 100_000,
    "fan-in 100:1": 100_000,
    "call": 20_000,
    "call, 100 callers": 40_000,
    "ring of 1000": 200_000,
    "suspending handlers": 20_000,
    "spawn and stop": 10_000,
}
METHODS = {
    "tell": "tell",
    "tell, all queued at once": "backlog",
    "fan-in 100:1": "fan_in",
    "call": "ask",
    "call, 100 callers": "many_askers",
    "ring of 1000": "ring",
    "suspending handlers": "suspending",
    "spawn and stop": "spawn",
}
CONTENDED = 3_000  # operations of another library: the slowest needs 0.1 ms for each
RESTARTS = 700
IDLE_ACTORS = 20_000
LOADS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)  # seconds that a handler takes
TURNS = 400  # loop turns looked at, for each load

Values = dict[str, float]


class QueueOnly(Scheduler):
    """Runs no call inside its caller."""

    __slots__ = ()

    def may_run_inline(self) -> bool:
        return False


async def rates(
    measures: dict[str, Measure], scale: float, counts: dict[str, int] = COUNTS, step: int = 1000
) -> Values:
    """Return thousands of operations per second of CPU time, after a warm-up of a tenth; counts are whole ``step``s."""
    values = {}
    for name, run in measures.items():
        count = max(int(counts[name] * scale) // step, 10) * step
        await run(count // (10 * step) * step)
        gc.collect()
        began = time.process_time()
        await run(count)
        values[name] = count / (time.process_time() - began) / 1e3
    return values


def measures_of(subject: object, *left_out: str) -> dict[str, Measure]:
    """Return the measures a subject has, by name."""
    return {
        name: getattr(subject, method)
        for name, method in METHODS.items()
        if hasattr(subject, method) and name not in left_out
    }


# --- subjects --------------------------------------------------------------------------------------------------------
async def call_soon(scale: float) -> Values:
    """A deque and one ``call_soon`` per idle-to-busy edge."""
    return await rates(measures_of(RawCallSoon()), scale)


async def queue(scale: float) -> Values:
    """A task per actor around an ``asyncio.Queue``."""
    values = await rates(measures_of(RawQueue(), "suspending handlers"), scale)
    return values | await rates({"suspending handlers": RawQueue(suspend=True).suspending}, scale)


async def ours(scale: float, tasked: bool = False, queued: bool = False) -> Values:
    """The runtime with ``def`` or ``async def`` handlers; ``queued`` lets no call run inside its caller."""
    async with ActorSystem() as system:
        if queued:
            system.scheduler.__class__ = QueueOnly
        subject = Ours(system, AsyncSink, AsyncLink) if tasked else Ours(system, Sink)
        wanted = measures_of(subject, *([] if tasked else ["suspending handlers"]))
        return await rates({"call": wanted["call"]} if queued else wanted, scale)


async def restart(scale: float) -> Values:
    """Microseconds of CPU time from a crash to the next answer; logging is left out."""
    times = []
    async with ActorSystem(max_restarts=1_000_000) as system:
        system.report = lambda event, **values: None  # type: ignore[method-assign]
        ref = await system.spawn(Sink)
        for _ in range(max(int(RESTARTS * scale), 100)):
            ref.cast.crash()
            began = time.process_time_ns()
            await ref.call.echo(1)
            times.append((time.process_time_ns() - began) / 1e3)
    return {"restart to next answer": statistics.median(times)}


async def memory(scale: float) -> Values:
    """Bytes that one idle actor takes, its own object included: never used, and after one message each."""
    count = max(int(IDLE_ACTORS * scale), 4000)  # the mailboxes of the thousand used last are not given back
    sizes = []
    async with ActorSystem() as system:
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        refs = [await system.spawn(Sink) for _ in range(count)]
        list_bytes = sys.getsizeof(refs)
        for used in (False, True):
            for index, ref in enumerate(refs if used else ()):
                ref.cast.tell(1)
                if index % 100 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
            gc.collect()
            sizes.append((tracemalloc.get_traced_memory()[0] - before - list_bytes) / count)
        tracemalloc.stop()
    return {"idle actor, never used": sizes[0], "idle actor, after use": sizes[1]}


class Burner(Actor):
    """Always has a message, which takes ``seconds`` of CPU time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @handler
    def burn(self) -> None:
        if self.seconds:
            end = time.perf_counter() + self.seconds
            while time.perf_counter() < end:
                pass
        self.ref.cast.burn()


class AsyncBurner(Burner):
    """The same with an ``async def`` handler."""

    @handler
    async def burn(self) -> None:
        if self.seconds:
            end = time.perf_counter() + self.seconds
            while time.perf_counter() < end:
                pass
        self.ref.cast.burn()


async def turns(scale: float) -> Values:
    """Milliseconds of CPU time of a loop turn, p99, of the worst load: 100 actors that always have messages."""
    worst = 0.0
    for cls in (Burner, AsyncBurner):
        for seconds in LOADS:
            async with ActorSystem() as system:
                refs: list[ActorRef[Any]] = [await system.spawn(cls, seconds) for _ in range(100)]
                for ref in refs:
                    for _ in range(10):
                        ref.cast.burn()
                took = []
                for _ in range(max(int(TURNS * scale), 200)):
                    began = time.thread_time()
                    await asyncio.sleep(0)
                    took.append(time.thread_time() - began)
                for ref in refs:
                    await ref.stop()
            worst = max(worst, sorted(took)[len(took) * 99 // 100])
    return {"loop turn, p99": worst * 1e3}


def contender(name: str) -> Callable[[float], Awaitable[Values]]:
    """Return what measures another library."""

    async def run(scale: float) -> Values:
        async with CONTENDERS[name]() as measures:
            return await rates(measures, scale, dict.fromkeys(measures, CONTENDED), step=100)

    return run


SUBJECTS: dict[str, Callable[[float], Awaitable[Values]]] = {
    "call_soon": call_soon,
    "queue": queue,
    "def": ours,
    "async def": lambda scale: ours(scale, tasked=True),
    "def, queued": lambda scale: ours(scale, queued=True),
    "async def, queued": lambda scale: ours(scale, tasked=True, queued=True),
    "restart": restart,
    "memory": memory,
    "turns": turns,
    **{name: contender(name) for name in CONTENDERS},
}


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes a loop of that name: ``asyncio`` or ``uvloop``."""
    if name == "uvloop":
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
        return factory
    return asyncio.new_event_loop


def measure(subject: str, loop: str, scale: float) -> Values:
    """Return what one subject reaches, here and now."""
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        return runner.run(SUBJECTS[subject](scale))  # type: ignore[arg-type]  # each is a coroutine


if __name__ == "__main__":
    values = measure(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    sys.stdout.buffer.write(msgspec.json.encode(values))
