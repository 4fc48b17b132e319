"""Kill the client, the server or both, with SIGKILL, anywhere: the run ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import NamedTuple

import pytest
from safetensors.numpy import load_file

from tinkex_actors.engine.store.store import Store
from tinkex_actors.runs.journal.file import read_journal
from tinkex_actors.types import ParsedCheckpointTinkerPath

STORY = Path(__file__).with_name("killed_story.py")
# Steps between two checkpoints, and some more than a multiple of them.
TOTAL = 8
# A step says some five lines; later ones are as good a moment as any.
LATEST_LINE = 30
SILENCE = 90.0


class Outcome(NamedTuple):
    """What a run has come to: its last checkpoint's tensors and header, and its history."""

    tensors: dict[str, bytes]
    history: list[tuple[int, dict[str, float], dict[str, float] | None, object]]


class Child:
    """A process of ours, and the lines it says."""

    def __init__(self, command: list[str], folder: Path) -> None:
        environment = {**os.environ, "TINKEX_ENGINE_STORE": str(folder / "store")}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: Queue[str | None] = Queue()
        self.said: list[str] = []
        self._over = False
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=target, daemon=True) for target in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors += list(self.process.stderr)

    def next_line(self) -> str | None:
        if self._over:
            return None
        try:
            line = self.lines.get(timeout=SILENCE)
        except Empty:
            raise AssertionError(f"silent for {SILENCE:g} s after {self.said[-3:]}: {''.join(self._errors)}") from None
        if line is None:
            self._over = True
        else:
            self.said.append(line)
        return line

    def hear(self, count: int) -> bool:
        """Read so many lines; false when it ended before."""
        return all(self.next_line() is not None for _ in range(count))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> str:
        self.process.wait(timeout=30)
        for reader in self._readers:
            reader.join(timeout=30)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return "".join(self._errors)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Scene:
    """One run in one folder, with its client and, where the engine is served, its server."""

    def __init__(self, kind: str, folder: Path, *, served: bool, draw: random.Random) -> None:
        self.kind, self.folder, self.draw = kind, folder, draw
        self.port = free_port() if served else None
        self.server: Child | None = None
        self.client: Child | None = None

    def serve(self) -> None:
        if self.port is not None:
            command = ["-m", "tinkex_actors", "serve", "--model", "tiny", "--port", str(self.port)]
            self.server = Child(command, self.folder)
            assert "serving" in (self.server.next_line() or ""), self.server.end()

    def start(self) -> Child:
        url = "local://tiny" if self.port is None else f"http://127.0.0.1:{self.port}"
        self.client = Child([str(STORY), self.kind, str(self.folder), url, str(TOTAL)], self.folder)
        return self.client

    def play(self, victims: list[str]) -> list[str]:
        """Kill the victims one after the other, each at a moment of its own; return what the clients said."""
        self.serve()
        client, said = self.start(), []
        for victim in victims:
            running = client.hear(self.draw.randrange(1, LATEST_LINE))
            if not running:
                break
            # Between two lines lie requests, writes and syncs: any of them may be under way.
            time.sleep(self.draw.random() * 0.03)
            if victim in ("client", "both"):
                client.kill()
                said += client.said
            if victim in ("server", "both"):
                assert self.server is not None
                self.server.kill()
                self.serve()
            if victim in ("client", "both"):
                client = self.start()
        while client.next_line() is not None:
            pass
        errors = client.end()
        assert client.process.returncode == 0, errors
        return said + client.said

    def close(self) -> None:
        for child in (self.client, self.server):
            if child is not None and child.process.poll() is None:
                child.kill()

    def outcome(self) -> Outcome:
        record = read_journal(self.folder / "run")
        last = [row for row in record.checkpoints if row.state == "kept"][-1]
        assert last.step == TOTAL
        parsed = ParsedCheckpointTinkerPath.from_tinker_path(last.path)
        kind, _, name = parsed.checkpoint_id.partition("/")
        saved = Store(self.folder / "store" / "tiny").checkpoint_folder(parsed.training_run_id, kind, name)
        tensors = {name: tensor.tobytes() for name, tensor in load_file(saved / "adapter.safetensors").items()}
        return Outcome(tensors, [(row.index, row.metrics, row.optim_metrics, row.cursor) for row in record.history])


@pytest.fixture
def scenes() -> Iterator[list[Scene]]:
    made: list[Scene] = []
    yield made
    for scene in made:
        scene.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    """What a run of a kind comes to when nobody kills anything; found once."""
    found: dict[str, Outcome] = {}

    def outcome(kind: str) -> Outcome:
        if kind not in found:
            scene = Scene(kind, tmp_path_factory.mktemp(kind), served=False, draw=random.Random(0))
            scene.play([])
            found[kind] = scene.outcome()
        return found[kind]

    return outcome


# A soak does ten runs of each kind with three kills in each: thirty moments. The suite does a sample of that.
SOAK = "TINKEX_TEST_SEEDS" in os.environ
RUNS, KILLS = (10, 3) if SOAK else (1, 1)
VICTIMS = ("client with its engine", "client", "server", "both")
CASES = [
    (kind, victim)
    for kind in ("sft", "rl")
    for victim in VICTIMS
    # `test_example` kills a supervised training as well.
    if SOAK or (kind, victim) in (("rl", "client with its engine"), ("rl", "both"))
]


@pytest.mark.slow
@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize(("kind", "victim"), CASES)
def test_a_killed_run_ends_as_one_that_was_not(
    kind: str, victim: str, undisturbed: Callable[[str], Outcome], scenes: list[Scene], tmp_path: Path
) -> None:
    expected = undisturbed(kind)
    for seed in range(RUNS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        served = victim != "client with its engine"
        scene = Scene(kind, folder, served=served, draw=random.Random(f"{kind} {victim} {seed}"))
        scenes.append(scene)

        said = scene.play([victim.partition(" ")[0]] * KILLS)
        scene.close()

        found = scene.outcome()
        assert found.history == expected.history, said
        assert found.tensors.keys() == expected.tensors.keys()
        assert {name for name in expected.tensors if found.tensors[name] != expected.tensors[name]} == set(), said
