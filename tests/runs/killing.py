"""A run's processes, and their deaths: real processes, killed with SIGKILL at moments that a seed draws."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Literal, NamedTuple

from safetensors import safe_open

from tests.runs import killed_story
from tinkex_actors.engine.store.store import Store
from tinkex_actors.runs import HistoryRow
from tinkex_actors.runs.journal.file import read_journal
from tinkex_actors.types import ParsedCheckpointTinkerPath

__all__ = ["Moment", "Outcome", "Scene", "Victim", "draw_moment", "outcome_of", "undisturbed"]

STORY, MORTAL = Path(__file__).with_name("killed_story.py"), Path(__file__).with_name("mortal.py")
# Steps between two checkpoints (3), and some more than a multiple of them.
TOTAL = 8
# How far a whole run comes: the lines that its client says, and the writes that a process does; a server does fewer.
LINES, CLIENT_WRITES, SERVER_WRITES = 50, 300, 100
# Until a process is there, has compiled, and is in its first steps, on a machine with other things to do.
START = 6.0
# From a kill to the next, or to the end.
PATIENCE = 240.0

Victim = Literal["client with its engine", "client", "server", "both"]


class Moment(NamedTuple):
    """When a process dies.

    Attributes:
        process: which one: ``client`` or ``server``.
        both: whether the other one dies as well.
        write: just before this write of its own (``mortal.py``); 0 for none.
        line: after this line of the client; 0 for none.
        seconds: so much later, or after the start where there is no line.
    """

    process: str
    both: bool = False
    write: int = 0
    line: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        who = f"{self.process}{' and the other' if self.both else ''}"
        if self.write:
            return f"{who} before its write {self.write}"
        return f"{who} {self.seconds:.4f} s after {f'line {self.line}' if self.line else 'its start'}"


def draw_moment(rng: random.Random, victim: Victim) -> Moment:
    """Draw a moment, anywhere from the start of a process to its end.

    A third by the clock, which mostly meets the start and the compilation; a third by the client's lines, which it says
    before and after every request, and some time that lets a write, a sync or an answer begin; a third before a write:
    of the journal, its copy, a checkpoint, the lease, whatever is on disk.
    """
    both = victim == "both"
    process = rng.choice(("client", "server")) if both else victim.partition(" ")[0]
    match rng.randrange(3):
        case 0:
            return Moment(process, both, seconds=rng.random() * START)
        case 1:
            return Moment(process, both, line=rng.randint(1, LINES), seconds=10.0 ** rng.uniform(-4.0, -1.0))
        case _:
            return Moment(process, both, write=rng.randint(1, CLIENT_WRITES if process == "client" else SERVER_WRITES))


class Outcome(NamedTuple):
    """What a run has come to: its last checkpoint's tensors (adapter and optimizer) and header, and its history."""

    tensors: dict[str, bytes]
    header: dict[str, str]
    history: list[tuple[Any, ...]]

    def differences(self, other: Outcome) -> list[str]:
        """Return what differs, by name; nothing where both are the same to the bit."""
        names = sorted(self.tensors.keys() | other.tensors.keys())
        found = [name for name in names if self.tensors.get(name) != other.tensors.get(name)]
        found += ["header"] if self.header != other.header else []
        rows = itertools.zip_longest(self.history, other.history)
        return found + [f"{ours!r} in place of {theirs!r}" for ours, theirs in rows if repr(ours) != repr(theirs)]


def outcome_of(folder: Path) -> Outcome:
    """Read what the finished run in a folder has come to."""
    record = read_journal(folder / "run")
    last = [row for row in record.checkpoints if row.state == "kept"][-1]
    assert last.step == TOTAL
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(last.path)
    kind, _, name = parsed.checkpoint_id.partition("/")
    saved = Store(folder / "store" / "tiny").checkpoint_folder(parsed.training_run_id, kind, name)
    with safe_open(saved / "adapter.safetensors", "numpy") as file:  # type: ignore[no-untyped-call]
        tensors = {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118
        header = file.metadata()
    assert {"adam.first_moment", "adam.second_moment"} < tensors.keys()
    return Outcome(tensors, header, [_plain(row) for row in record.history])


def _plain(row: HistoryRow) -> tuple[Any, ...]:
    # In which order a protobuf map gives its entries, is chance.
    return (row.index, sorted(row.metrics.items()), sorted((row.optim_metrics or {}).items()), row.cursor)


def undisturbed(kind: str, folder: Path) -> Outcome:
    """Do a run that nobody disturbs, in this process, and return what it comes to."""
    asyncio.run(killed_story.train(kind, folder, "local://tiny", TOTAL))
    return outcome_of(folder)


class Child:
    """A process of ours, and the lines it says."""

    def __init__(self, folder: Path, write: int, *command: object) -> None:
        mortal = [sys.executable, "-W", "error", str(MORTAL), str(write), str(folder)]
        self.process = subprocess.Popen(
            [*mortal, *map(str, command)],
            cwd=folder,
            env={**os.environ, "TINKEX_ENGINE_STORE": str(folder / "store")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.began = time.monotonic()
        self.said: list[str] = []
        self._lines: Queue[str | None] = Queue()
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=target, daemon=True) for target in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors += list(self.process.stderr)

    def over(self, patience: float) -> bool:
        """Wait for a line or so long; return whether there will be none any more."""
        try:
            line = self._lines.get(timeout=patience)
        except Empty:
            return False
        if line is not None:
            self.said.append(line)
        return line is None

    @property
    def killed(self) -> bool:
        """Whether it has died of SIGKILL."""
        return self.process.poll() == -signal.SIGKILL

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> str:
        """Wait until it has ended; return what it said of errors."""
        self.process.wait(timeout=30)
        for reader in self._readers:
            reader.join(timeout=30)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return "".join(self._errors)


class Scene:
    """One run in one folder, with its client and, where the engine is served, its server.

    Args:
        kind: of training: ``sft`` or ``rl``.
        folder: for everything; made.
        served: whether the engine has a process of its own.

    Attributes:
        deaths: what has been killed, and when.
    """

    def __init__(self, kind: str, folder: Path, *, served: bool) -> None:
        self._kind, self._folder = kind, folder
        folder.mkdir()
        self._port = _free_port() if served else None
        self._server: Child | None = None
        self._client: Child | None = None
        self._said: list[str] = []
        self.deaths: list[str] = []

    def play(self, moments: list[Moment]) -> None:
        """Do the run to its end, and have a process die at each moment; one that comes after the end is none."""
        for moment in moments:
            if not self._meet(moment):
                break
            self.deaths.append(str(moment))
            if moment.both:
                self._end(self._client, self._server)
        else:
            self._meet(None)

    def _meet(self, moment: Moment | None) -> bool:
        """Wait for a moment and let its process die; false when the run has ended before."""
        self._start(moment)
        client = self._client
        assert client is not None
        victim = self._server if moment is not None and moment.process == "server" else client
        assert victim is not None
        begun, heard = time.monotonic(), len(client.said)
        due = victim.began + moment.seconds if moment and not (moment.write or moment.line) else None
        while not client.over(0.02 if due is None else max(0.0, min(0.02, due - time.monotonic()))):
            now = time.monotonic()
            if moment is not None and moment.line == len(client.said) - heard and due is None and moment.line:
                due = now + moment.seconds
            if due is not None and now >= due:
                victim.kill()
                return True
            if victim.killed:
                victim.end()
                return True
            assert now - begun < PATIENCE, f"no end after {PATIENCE:g} s: {self.told()}"
        errors = client.end()
        if client.killed:
            return True
        assert client.process.returncode == 0, f"{errors}\n{self.told()}"
        return False

    def _start(self, moment: Moment | None) -> None:
        """Start what does not run."""
        writes = {moment.process: moment.write} if moment is not None else {}
        if self._port is not None and (self._server is None or self._server.process.poll() is not None):
            serve = ("tinkex_actors", "serve", "--model", "tiny", "--port", self._port)
            self._server = Child(self._folder, writes.get("server", 0), *serve)
        if self._client is None or self._client.process.poll() is not None:
            if self._client is not None:
                self._said += [*self._client.said, "(killed)"]
            url = "local://tiny" if self._port is None else f"http://127.0.0.1:{self._port}"
            story = (STORY, self._kind, self._folder, url, TOTAL)
            self._client = Child(self._folder, writes.get("client", 0), *story)

    def _end(self, *children: Child | None) -> None:
        for child in children:
            if child is not None and child.process.poll() is None:
                child.kill()

    def close(self) -> None:
        """End what still runs."""
        self._end(self._client, self._server)

    def told(self) -> str:
        """Return what has happened, for a person who looks for the reason."""
        said = [*self._said, *(self._client.said if self._client else [])]
        return "\n".join(["", *(f"killed: {death}" for death in self.deaths), *(f"said: {line}" for line in said)])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
