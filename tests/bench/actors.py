"""The actor core against the least that could do the job and against other libraries, per CPU second, in the same run.

"call_soon" is a deque, one ``call_soon`` per idle-to-busy edge, plain functions, nothing else. "queue" is one task per
actor around an ``asyncio.Queue``. Neither has names, bounds, restarts, deadlines or a tree. Other libraries come with
the ``bench`` extra; those not installed are named and left out.

Each (subject, loop, round) has a process of its own, and the order of the subjects rotates from round to round. Values
are medians over rounds; ratios are medians of the ratios within a round. Each floor is printed with its target.

    python -m tests.bench.actors [--json] [--quick | --full] [--loop asyncio|uvloop|both] [--million [COUNT]]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import resource
import subprocess
import sys
import time
from typing import NamedTuple

import msgspec

from tests.bench.actor_floors import FLOORS, Round, row_of
from tests.bench.actor_subjects import Sink
from tests.bench.contenders import CONTENDERS, installed
from tests.bench.measuring import SUBJECTS
from tests.bench.report import Row, text
from tinkex_actors.runtime import ActorRef, ActorSystem

LOOPS = ("asyncio", "uvloop")
MILLION = 1_000_000


class Effort(NamedTuple):
    """How much to do: rounds, the part of the operations in each, and whether other libraries take part in each.

    What other libraries reach is far enough from ours that one round tells.
    """

    rounds: int
    scale: float
    others_each_round: bool = False


QUICK, USUAL, FULL = Effort(1, 0.1), Effort(3, 0.5), Effort(9, 1.0, others_each_round=True)


# --- rounds ----------------------------------------------------------------------------------------------------------
def rounds_on(loop: str, subjects: list[str], others: tuple[str, ...], effort: Effort) -> list[Round]:
    """Return what each subject reaches in each round, a process for each."""
    done: list[Round] = []
    for number in range(effort.rounds):
        start = number % len(subjects)
        order = subjects[start:] + subjects[:start]
        if number == 0 or effort.others_each_round:
            order += others
        done.append({subject: _measured(subject, loop, effort.scale) for subject in order})
    return done


def _measured(subject: str, loop: str, scale: float) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.measuring", subject, loop, str(scale)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return msgspec.json.decode(output, type=dict[str, float])


def run(effort: Effort = USUAL, loops: tuple[str, ...] = LOOPS) -> list[Row]:
    """Run the bench; returns a row for each floor, on each loop that is installed."""
    others = tuple(name for name in CONTENDERS if installed(name))
    for name in CONTENDERS:
        if name not in others:
            sys.stderr.write(f"{name} is not installed and left out; the extra `bench` has it.\n")
    subjects = [name for name in SUBJECTS if name not in CONTENDERS]
    rows = []
    for loop in loops:
        if loop != "asyncio" and importlib.util.find_spec(loop) is None:
            sys.stderr.write(f"{loop} is not installed and left out.\n")
            continue
        rounds = rounds_on(loop, subjects, others, effort)
        rows += [row_of(floor, rounds, loop, others) for floor in FLOORS]
    return rows


# --- a million actors ------------------------------------------------------------------------------------------------
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


def main() -> None:
    """Run as a command."""
    title = "actor core, per CPU second"
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="one short round: to see that it runs, not to quote")
    effort.add_argument("--full", action="store_true", help="more and longer rounds: to quote")
    parser.add_argument("--loop", choices=[*LOOPS, "both"], default="both", help="event loop")
    parser.add_argument("--million", type=int, nargs="?", const=MILLION, help="only: so many idle actors at once")
    options = parser.parse_args()
    if options.million is not None:
        rows = asyncio.run(crowd(options.million))
    else:
        effort_of = QUICK if options.quick else FULL if options.full else USUAL
        rows = run(effort_of, LOOPS if options.loop == "both" else (options.loop,))
    sys.stdout.write((msgspec.json.encode(rows).decode() if options.json else text(title, rows)) + "\n")


if __name__ == "__main__":
    main()
