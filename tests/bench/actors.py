"""The actor core against the least that could do the job and against other libraries, per CPU second, in the same run.

"call_soon" is a deque, one ``call_soon`` per idle-to-busy edge, plain functions, nothing else. "queue" is one task per
actor around an ``asyncio.Queue``. Neither has names, bounds, restarts, deadlines or a tree. Other libraries come with
the ``bench`` extra; those not installed are left out. Values are medians over rounds; ratios are medians of the ratios
within a round.

    python -m tests.bench.actors [--json] [--quick] [--loop asyncio|uvloop|both] [--million [COUNT]]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import resource
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable

import msgspec

from tests.bench.actor_subjects import AsyncLink, AsyncSink, Measure, Ours, RawCallSoon, RawQueue, Sink
from tests.bench.contenders import CONTENDERS, installed
from tests.bench.report import Row, text
from tinkex_actors.runtime import ActorRef, ActorSystem
from tinkex_actors.runtime._core.scheduler import Scheduler

ROUNDS, QUICK_ROUNDS = 7, 2
LOOPS = ("asyncio", "uvloop")
MILLION = 1_000_000


# --- one measure -----------------------------------------------------------------------------------------------------
async def rate(measure: Measure, count: int) -> float:
    """Return thousands of operations per second of this process's CPU time."""
    gc.collect()
    began = time.process_time()
    await measure(count)
    return count / (time.process_time() - began) / 1e3


async def compare(name: str, ours: Measure, base: Measure, against: str, count: int, rounds: int) -> Row:
    """Measure both in turn; return the row."""
    mine, theirs = [], []
    for _ in range(rounds):
        mine.append(await rate(ours, count))
        theirs.append(await rate(base, count))
    return Row(
        measure=name,
        ours=statistics.median(mine),
        unit="k/s",
        baseline=statistics.median(theirs),
        against=against,
        ratio=statistics.median(a / b for a, b in zip(mine, theirs, strict=True)),
    )


async def restart_time(rounds: int) -> list[Row]:
    """Return microseconds of CPU time from a crash to the next answer, and the same in raw calls of this machine."""
    times = []
    async with ActorSystem(max_restarts=1_000_000) as system:
        system.report = lambda event, **values: None  # type: ignore[method-assign]  # not the log's price
        ref = await system.spawn(Sink)
        for _ in range(rounds * 100):
            ref.cast.crash()
            began = time.process_time_ns()
            await ref.call.echo(1)
            times.append((time.process_time_ns() - began) / 1e3)
    raw = 1e3 / await rate(RawCallSoon().ask, 2000)
    took = statistics.median(times)
    return [
        Row(measure="restart to next answer", ours=took, unit="us"),
        Row(measure="restart to next answer", ours=took / raw, unit="calls", against="time of a raw call_soon call"),
    ]


# --- memory ----------------------------------------------------------------------------------------------------------
async def idle_size(count: int) -> list[Row]:
    """Return bytes that one idle actor takes, its own object included: never used, and after one message each."""
    async with ActorSystem() as system:
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        refs = [await system.spawn(Sink) for _ in range(count)]
        list_bytes = sys.getsizeof(refs)
        sizes = []
        for used in (False, True):
            for ref in refs if used else ():
                ref.cast.tell(1)
                if ref.path.endswith("00"):
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
            gc.collect()
            sizes.append((tracemalloc.get_traced_memory()[0] - before - list_bytes) / count)
        tracemalloc.stop()
    return [
        Row(measure="idle actor, never used", ours=sizes[0], unit="bytes"),
        Row(measure="idle actor, after use", ours=sizes[1], unit="bytes"),
    ]


async def crowd(count: int) -> list[Row]:
    """Spawn many actors, send each a message, stop them; return wall time of each and the memory they took."""
    rows: list[Row] = []

    def lap(what: str, value: float, unit: str) -> None:
        rows.append(Row(measure=f"{count:,} actors: {what}", ours=value, unit=unit))

    before = _resident_mib()
    async with ActorSystem(stop_timeout=600.0) as system:
        began = time.perf_counter()
        gc.freeze()  # as the documentation advises after start-up
        refs: list[ActorRef[Sink]] = [await system.spawn(Sink) for _ in range(count)]
        lap("spawned", time.perf_counter() - began, "s")
        lap("memory when idle", _resident_mib() - before, "MiB")
        began = time.perf_counter()
        for index, ref in enumerate(refs):
            ref.cast.tell(index)
            if index % 1000 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await refs[-1].call.echo(1) == 1
        lap("one message each", time.perf_counter() - began, "s")
        lap("memory after use", _resident_mib() - before, "MiB")
        began = time.perf_counter()
        report = await system.stop()
        assert report.stopped >= count, report
        lap("stopped", time.perf_counter() - began, "s")
    return rows


def _resident_mib() -> float:
    """Return this process's memory now, or where the system does not say, its peak."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- all -------------------------------------------------------------------------------------------------------------
class QueueOnly(Scheduler):
    """Runs no call inside its caller."""

    __slots__ = ()

    def may_run_inline(self) -> bool:
        return False


async def against_the_least(rounds: int, scale: int) -> list[Row]:
    """Return the rows against the baselines of the standard library."""
    soon, queue, suspending = RawCallSoon(), RawQueue(), RawQueue(suspend=True)
    async with ActorSystem() as system, ActorSystem() as strict:
        plain, tasked = Ours(system, Sink), Ours(system, AsyncSink, AsyncLink)
        queued, tasked_queued = Ours(strict, Sink), Ours(strict, AsyncSink)
        strict.scheduler.__class__ = QueueOnly
        table: list[tuple[str, Measure, Measure, str, int]] = [
            ("tell, def", plain.tell, soon.tell, "call_soon", 25_000),
            ("tell, async def", tasked.tell, soon.tell, "call_soon", 25_000),
            ("tell, async def", tasked.tell, queue.tell, "queue", 25_000),
            ("tell, all queued at once, def", plain.backlog, soon.backlog, "call_soon", 25_000),
            ("call, def", plain.ask, soon.ask, "call_soon", 5_000),
            ("call, async def", tasked.ask, soon.ask, "call_soon", 5_000),
            ("call, 100 callers, def", plain.many_askers, soon.many_askers, "call_soon", 10_000),
            ("call, 100 callers, async def", tasked.many_askers, soon.many_askers, "call_soon", 10_000),
            ("call through the queue, def", queued.ask, queue.ask, "queue", 5_000),
            ("call through the queue, async def", tasked_queued.ask, queue.ask, "queue", 5_000),
            ("fan-in 100:1, def", plain.fan_in, soon.fan_in, "call_soon", 25_000),
            ("ring of 1000, def", plain.ring, soon.ring, "call_soon", 25_000),
            ("ring of 1000, async def", tasked.ring, soon.ring, "call_soon", 25_000),
            ("suspending handlers", tasked.suspending, suspending.suspending, "queue", 5_000),
            ("spawn and stop", plain.spawn, queue.spawn, "queue", 2_000),
        ]
        return [
            await compare(name, ours, base, against, count * scale, rounds)
            for name, ours, base, against, count in table
        ]


async def against_others(rounds: int, scale: int) -> list[Row]:
    """Return the rows against the installed contenders; ours with ``async def`` handlers, as theirs are."""
    rows: list[Row] = []
    async with ActorSystem() as system:
        ours = Ours(system, AsyncSink)
        mine: dict[str, Measure] = {
            "tell": ours.backlog,
            "call": ours.ask,
            "call, 100 callers": ours.many_askers,
            "spawn and stop": ours.spawn,
        }
        for name, contender in CONTENDERS.items():
            if not installed(name):
                sys.stderr.write(f"{name} is not installed and left out; the extra `bench` has it.\n")
                continue
            async with contender() as measures:
                for measure, theirs in measures.items():
                    rows.append(await compare(measure, mine[measure], theirs, name, 500 * scale, rounds))
    return rows


async def measure_all(quick: bool) -> list[Row]:
    """Return every row, on the loop it runs on."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    scale = 1 if quick else 4
    rows = await against_the_least(rounds, scale)
    rows += await restart_time(rounds)
    rows += await idle_size(5000 * scale)
    return rows + await against_others(rounds, scale)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes a loop of that name."""
    if name == "uvloop":
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
        return factory
    return asyncio.new_event_loop


def run(quick: bool = False, loops: tuple[str, ...] = ("asyncio",)) -> list[Row]:
    """Run the bench on each loop; ``quick`` only shows that it runs."""
    rows = []
    for name in loops:
        with asyncio.Runner(loop_factory=loop_factory(name)) as runner:
            for row in runner.run(measure_all(quick)):
                row.loop = name
                rows.append(row)
    return rows


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description="actor core, per CPU second")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it runs, not to quote")
    parser.add_argument("--loop", choices=[*LOOPS, "both"], default="asyncio", help="event loop")
    parser.add_argument("--million", type=int, nargs="?", const=MILLION, help="only: so many idle actors at once")
    options = parser.parse_args()
    if options.million is not None:
        rows = asyncio.run(crowd(options.million))
    else:
        rows = run(options.quick, LOOPS if options.loop == "both" else (options.loop,))
    sys.stdout.write((msgspec.json.encode(rows).decode() if options.json else text(parser.description, rows)) + "\n")


if __name__ == "__main__":
    main()
