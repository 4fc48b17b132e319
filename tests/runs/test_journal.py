"""The journal: whole or not at all, readable by later versions, and honest about damage."""

from __future__ import annotations

import asyncio
import math
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tinkex_actors import Datum, JournalDamagedError, LoraConfig, ModelInput, RunError, SamplingParams
from tinkex_actors.runs.journal.digests import digest_of
from tinkex_actors.runs.journal.entries import (
    CheckpointState,
    Entry,
    Note,
    OperationEnded,
    OperationSent,
    RunClosed,
    RunOpened,
    SampleDrawn,
    StepCommitted,
    StepsWithdrawn,
)
from tinkex_actors.runs.journal.file import JOURNAL, JournalFile, read_journal, repair
from tinkex_actors.runs.journal.keeper import JournalDesk, JournalKeeper
from tinkex_actors.runs.journal.schema import APPLICATION_ID, MIGRATIONS
from tinkex_actors.runs.spec import RunSpec
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.testing import Faults, settle, virtual_time

NOW = "2026-01-01T00:00:00+00:00"
SPEC = RunSpec(model="tiny", lora=LoraConfig(rank=4, seed=7), seed=3)


def opened(epoch: int = 1, model_id: str = "m", next_seq: int = 1, **changes: Any) -> RunOpened:
    fields = {
        "at": NOW, "pid": 1, "host": "h", "command": ["python", "x.py"], "folder": ".", "way": "created",
        "base_url": "local://tiny", "session_id": "s", "first_step": 0,
    }  # fmt: skip
    return RunOpened(epoch=epoch, model_id=model_id, next_seq=next_seq, **(fields | changes))


def committed(step: int, *, epoch: int = 1, next_seq: int = 3, **metrics: float) -> StepCommitted:
    return StepCommitted(
        step=step, epoch=epoch, next_seq=next_seq, metrics=metrics, optim_metrics=None, cursor=None, seconds=1.0, at=NOW
    )


def sent(number: int, *, step: int, content: Any = "x", epoch: int = 1, **changes: Any) -> OperationSent:
    fields: dict[str, Any] = {"model_id": "m", "place": 0, "kind": "forward_backward", "first_seq": number, "count": 1}
    return OperationSent(epoch=epoch, number=number, step=step, content=content, at=NOW, **(fields | changes))


def kept(step: int, *, state: str = "kept", epoch: int = 1, next_seq: int = 9) -> CheckpointState:
    path = f"tinker://m/weights/{step}"
    return CheckpointState(path=path, step=step, epoch=epoch, next_seq=next_seq, cursor=[step], state=state, at=NOW)


def datum(*tokens: int) -> Datum:
    return Datum(ModelInput.from_ints(tokens), {"target_tokens": list(tokens), "weights": [1.0] * len(tokens)})


def journal(folder: Path, *entries: Entry) -> JournalFile:
    file = JournalFile(folder)
    file.open()
    file.begin(SPEC, 5)
    file.write(entries)
    return file


def test_what_is_written_is_read_every_float_as_it_was(tmp_path: Path) -> None:
    odd = {"a:sum": 0.1 + 0.2, "b": math.inf, "c": -0.0, "d": 1e-310}
    journal(tmp_path, opened(), committed(0, **odd), committed(1, nan=math.nan), kept(2)).close()

    record = read_journal(tmp_path)

    assert (record.spec, record.checkpoint_every) == (SPEC, 5)
    assert record.history[0].metrics == odd
    assert math.copysign(1, record.history[0].metrics["c"]) == -1
    assert math.isnan(record.history[1].metrics["nan"])
    assert record.openings[0].command == ["python", "x.py"]
    assert [(row.step, row.cursor) for row in record.checkpoints] == [(2, [2])]


def test_an_entry_that_is_written_again_changes_nothing(tmp_path: Path) -> None:
    entries: list[Entry] = [
        opened(),
        sent(1, step=0, content=[datum(1, 2)]),
        OperationEnded(epoch=1, number=1, state="done", request_ids=["m:1"], outcome={"loss:sum": 1.0}),
        committed(0, loss=1.0),
        sent(2, step=1),
        SampleDrawn(step=1, place=0, digest="d", response=b"{}"),
        Note(at=NOW, kind="k", text="t"),
        kept(1),
        kept(1, state="dropped"),
        StepsWithdrawn(first=5),
        RunClosed(epoch=1, at=NOW, ending="closed"),
    ]
    file = journal(tmp_path, *entries)
    before = msgspec.json.encode(read_journal(tmp_path).history + read_journal(tmp_path).openings)
    dump = _dump(tmp_path)

    file.write(entries)
    file.close()

    assert msgspec.json.encode(read_journal(tmp_path).history + read_journal(tmp_path).openings) == before
    assert _dump(tmp_path) == dump


def _dump(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / JOURNAL)) as connection:
        return list(connection.iterdump())


def test_a_failed_write_leaves_nothing_of_it(tmp_path: Path) -> None:
    class Broken:
        synced = False

        def write(self, connection: sqlite3.Connection) -> None:
            raise sqlite3.OperationalError("database or disk is full")

    file = journal(tmp_path, opened(), committed(0))
    with pytest.raises(RunError, match=r"disk is full.*goes on where it stood"):
        file.write([committed(1), Broken()])
    file.write([committed(1)])
    file.close()

    assert [row.index for row in read_journal(tmp_path).history] == [0, 1]


def test_the_next_number_is_that_of_the_last_model(tmp_path: Path) -> None:
    """Numbers of models that were given up count for nothing."""
    file = journal(tmp_path, opened(1, "old"), committed(0, next_seq=50), kept(1, next_seq=51))
    assert read_journal(tmp_path).next_seq == 51
    file.write([opened(2, "new", next_seq=2, first_step=1)])
    assert read_journal(tmp_path).next_seq == 2
    file.write([sent(3, step=1, epoch=2, model_id="new"), sent(1, step=0, model_id="old", first_seq=60)])
    file.close()

    record = read_journal(tmp_path)

    assert record.next_seq == 2
    assert [(row.first_seq, row.step, row.digest) for row in record.sent] == [(3, 1, digest_of("x"))]


def test_a_repeated_step_with_other_data_is_noted(tmp_path: Path) -> None:
    file = journal(
        tmp_path,
        sent(1, step=0, content=[datum(1, 2)]),
        sent(2, step=1, content=[datum(3)]),
        sent(1, step=0, epoch=2, content=[datum(1, 2)]),
        sent(2, step=1, epoch=2, content=[datum(4)]),
    )
    file.close()

    assert [(step, kind) for _, step, kind, _ in read_journal(tmp_path).notes] == [(1, "diverged")]


def test_samples_go_when_no_checkpoint_can_lead_back_to_them(tmp_path: Path) -> None:
    draws = [SampleDrawn(step=step, place=0, digest="d", response=b"{}") for step in range(6)]
    file = journal(tmp_path, *draws, kept(2), kept(4))
    assert len(read_journal(tmp_path).samples) == 6
    file.write([kept(2, state="dropping")])
    file.close()

    assert sorted(read_journal(tmp_path).samples) == [(4, 0), (5, 0)]


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_an_older_journal_becomes_a_new_one_and_keeps_what_it_says(tmp_path: Path, version: int) -> None:
    with closing(sqlite3.connect(tmp_path / JOURNAL)) as connection:
        connection.executescript("".join(MIGRATIONS[:version]))
        connection.execute(
            "INSERT INTO spec (only, spec, created_at) VALUES (0, ?, ?)", (msgspec.json.encode(SPEC), NOW)
        )
        connection.execute("INSERT INTO steps (step, epoch, next_seq, seconds, at) VALUES (0, 1, 3, 1.0, ?)", (NOW,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()

    file = JournalFile(tmp_path)
    record = file.open()
    file.write([Note(at=NOW, kind="k", text="t")])
    file.close()

    assert record.spec == SPEC
    assert [row.index for row in record.history] == [0]
    assert len(read_journal(tmp_path).notes) == 1


def test_a_journal_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    journal(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / JOURNAL)) as connection:
        connection.execute("PRAGMA user_version = 99")

    with pytest.raises(RunError, match=r"version 99.*Upgrade"):
        JournalFile(tmp_path).open()


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / JOURNAL)) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")

    with pytest.raises(RunError, match="another program"):
        JournalFile(tmp_path).open()


@pytest.mark.parametrize("damage", ["head", "middle", "text"])
def test_damage_is_told_with_the_way_back_and_the_copy_is_put_in_place(tmp_path: Path, damage: str) -> None:
    file = journal(tmp_path, opened(), committed(0, loss=1.0), kept(1), *[committed(n, x=n) for n in range(1, 300)])
    file.copy()
    file.write([committed(300)])
    file.close()
    path = tmp_path / JOURNAL
    if damage == "text":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE steps SET metrics = '{oh' WHERE step = 7")
            connection.commit()
    else:
        whole = bytearray(path.read_bytes())
        start = 0 if damage == "head" else len(whole) // 2
        whole[start : start + 4096] = b"\xff" * 4096
        path.write_bytes(whole)

    with pytest.raises(JournalDamagedError, match="run repair") as told:
        JournalFile(tmp_path).open()
    aside, record = repair(tmp_path)

    assert str(tmp_path) in told.value.message
    assert aside.is_file()
    assert [row.index for row in record.history] == list(range(300))
    reopened = JournalFile(tmp_path)
    assert len(reopened.open().history) == 300
    reopened.close()


@pytest.mark.parametrize("loss", ["missing", "empty", "older"])
def test_a_journal_that_was_lost_is_not_taken_for_a_new_run(tmp_path: Path, loss: str) -> None:
    """Its copy is there: to begin anew over it would lose the run without a word."""
    file = journal(tmp_path, opened(), committed(0), kept(1))
    file.copy()
    path = tmp_path / JOURNAL
    older = path.read_bytes()  # as when the WAL is deleted, which has all that was written since
    file.write([committed(1), kept(2)])
    file.copy()
    file.close()
    if loss == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if loss == "empty" else older)
    wal = path.with_name(f"{path.name}-wal")
    assert not wal.exists()

    for look in (lambda: read_journal(tmp_path), JournalFile(tmp_path).open):
        with pytest.raises(JournalDamagedError, match=rf"it is {loss}.*run repair"):
            look()
    _, record = repair(tmp_path)

    assert [row.index for row in record.history] == [0, 1]
    assert [row.step for row in read_journal(tmp_path).checkpoints] == [1, 2]


def test_a_flipped_bit_is_found_or_means_nothing(tmp_path: Path) -> None:
    draws = [SampleDrawn(step=step, place=0, digest="d", response=b"%d" % step * 40) for step in range(20)]
    steps = [committed(step, **{"loss:sum": 3.0 / (step + 1)}) for step in range(20)]
    journal(tmp_path, opened(), *steps, *draws, *[sent(n, step=n) for n in range(1, 20)], kept(9)).close()
    path, rng = tmp_path / JOURNAL, random.Random(0)
    whole, wanted = path.read_bytes(), repr(read_journal(tmp_path))
    used = [place for place, byte in enumerate(whole) if byte]
    found = 0
    for _ in range(150):
        place, bit = rng.choice(used), rng.randrange(8)
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            assert repr(read_journal(tmp_path)) == wanted, f"bit {bit} of byte {place}"
        except RunError:
            found += 1
    # The others lie in texts for people, and in what SQLite has given up.
    assert found > 75


def test_damage_without_a_copy_says_so(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(b"not a database at all, but long enough to be taken for one" * 20)

    with pytest.raises(JournalDamagedError, match="no copy"):
        JournalFile(tmp_path).open()
    with pytest.raises(RunError, match="no copy"):
        repair(tmp_path)


def test_where_there_is_no_run_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run in"):
        read_journal(tmp_path / "nowhere")

    assert list(tmp_path.iterdir()) == []


def test_reading_works_while_another_writes_and_changes_nothing(tmp_path: Path) -> None:
    file = journal(tmp_path, opened(), committed(0))

    assert len(read_journal(tmp_path).history) == 1
    file.write([committed(1)])
    assert len(read_journal(tmp_path).history) == 2
    file.close()


def test_digests_tell_contents_apart() -> None:
    contents: list[Any] = [
        [datum(1, 2)],
        [datum(2, 1)],
        [datum(1), datum(2)],
        [datum(1, 2), "cross_entropy"],
        [Datum(ModelInput.from_ints([1, 2]), {"target_tokens": [1, 2], "weights": [1.0, 0.5]})],
        "x",
        [datum(*range(300))],
        [datum(*range(299), 5)],
        [datum(*range(299))],
        # A prompt is looked at as a whole, however long it is.
        ModelInput.from_ints([*range(500), 7, *range(500)]),
        ModelInput.from_ints([*range(500), 8, *range(500)]),
        SamplingParams(stop=[*range(20), 1]),
        SamplingParams(stop=[*range(20), 2]),
        # Of a large batch, some examples are looked at, and the lengths of all.
        [datum(number) for number in range(50)],
        [datum(number + 1) for number in range(50)],
        [datum(*range(1 + (number == 1))) for number in range(50)],
        [datum(*range(1 + (number == 2))) for number in range(49)],
    ]

    assert len({digest_of(content) for content in contents}) == len(contents)
    assert digest_of(contents[0]) == digest_of([datum(1, 2)])


# --- the actor --------------------------------------------------------------------------------------------------------
async def test_the_keeper_writes_off_the_loop_and_flush_waits_for_the_disk(tmp_path: Path) -> None:
    async with ActorSystem() as system:
        desk = JournalDesk(journal(tmp_path, opened()), system.loop)
        await system.spawn(JournalKeeper, desk)
        desk.add(*[committed(step) for step in range(50)])
        assert len(desk.waiting) == 50
        await desk.flush()
        assert desk.waiting == []
        await desk.flush()
    desk.file.close()

    assert len(read_journal(tmp_path).history) == 50


@virtual_time()
async def test_lines_wait_a_moment_for_others_and_synced_ones_take_them_along(tmp_path: Path) -> None:
    async with ActorSystem() as system:
        desk = JournalDesk(journal(tmp_path, opened()), system.loop)
        await system.spawn(JournalKeeper, desk)
        desk.add(committed(0))
        await asyncio.sleep(0.04)
        assert len(desk.waiting) == 1
        await asyncio.sleep(0.1)
        assert desk.waiting == []
        desk.add(committed(1))
        await settle()
        assert len(desk.waiting) == 1
        began = system.loop.time()
        desk.add(RunClosed(epoch=1, at="now", ending="closed"))
        await desk.flush()
        assert system.loop.time() == began
    desk.file.close()

    assert len(read_journal(tmp_path).history) == 2


async def test_a_keeper_that_crashes_writes_everything_once_it_is_back(tmp_path: Path) -> None:
    async with ActorSystem(max_restarts=100) as system:
        desk = JournalDesk(journal(tmp_path, opened()), system.loop)
        await system.spawn(JournalKeeper, desk, name="journal")
        faults = Faults(system)
        faults.crash("/journal", "wake", at=2)
        faults.crash("/journal", "wake", at=5)
        for step in range(20):
            desk.add(committed(step))
            await desk.flush()
        assert len(faults.injected) == 2
    desk.file.close()

    assert [row.index for row in read_journal(tmp_path).history] == list(range(20))


async def test_a_full_disk_is_told_to_whoever_waits_and_whoever_comes_later(tmp_path: Path) -> None:
    async with ActorSystem() as system:
        file = journal(tmp_path, opened())
        assert file._connection is not None
        (pages,) = file._connection.execute("PRAGMA page_count").fetchone()
        file._connection.execute(f"PRAGMA max_page_count = {pages}")
        desk = JournalDesk(file, system.loop)
        await system.spawn(JournalKeeper, desk)
        desk.add(*[SampleDrawn(step=n, place=0, digest="d", response=b"x" * 4096) for n in range(9)])
        with pytest.raises(RunError, match=r"full.*disk has room"):
            await desk.flush()
        with pytest.raises(RunError, match="full"):
            desk.check()
        with pytest.raises(RunError, match="full"):
            await desk.flush()
    file.close()

    assert read_journal(tmp_path).samples == {}
