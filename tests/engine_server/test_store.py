"""The store: what is written is read by others, whole or not at all, and by one writing process at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.engine.store.store import CheckpointRecord, RunRecord, Store, escape
from tinkex_actors.errors import ConfigError, ConflictError, InputError, NotFoundError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RUN = "local-1:train:0"


class WallClock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def checkpoint(name: str, kind: str = "weights", run_id: str = RUN) -> CheckpointRecord:
    return CheckpointRecord(
        training_run_id=run_id, kind=kind, name=name, time=NOON, base_model="tiny", lora_rank=4, has_optimizer=True
    )


def run(run_id: str = RUN, at: datetime = NOON) -> RunRecord:
    return RunRecord(training_run_id=run_id, base_model="tiny", lora_rank=4, created_at=at, last_request_time=at)


def write(text: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        folder.mkdir()
        (folder / "weights.bin").write_text(text)

    return fill


def test_a_later_store_reads_what_an_earlier_one_wrote(tmp_path: Path) -> None:
    first = Store(tmp_path / "tiny", WallClock())
    first.write_run(run())
    kept = first.put(checkpoint("a"), None, write("12345"))
    first.close()

    later = Store(tmp_path / "tiny")
    assert later.runs() == [run()]
    assert later.checkpoints() == [kept]
    assert later.checkpoint(RUN, "weights", "a").size_bytes == 5
    assert (later.checkpoint_folder(RUN, "weights", "a") / "weights.bin").read_text() == "12345"


def test_listings_are_newest_first_and_know_one_run_from_another(tmp_path: Path) -> None:
    clock = WallClock()
    store = Store(tmp_path, clock)
    for number, name in enumerate(("a", "b", "c")):
        clock.now = NOON + timedelta(minutes=number)
        store.put(checkpoint(name, run_id=f"run:{number % 2}"), None, write(name))
        store.write_run(run(f"run:{number % 2}", clock.now))
    assert [record.name for record in store.checkpoints()] == ["c", "b", "a"]
    assert [record.name for record in store.checkpoints("run:0")] == ["c", "a"]
    assert [record.training_run_id for record in store.runs()] == ["run:0", "run:1"]
    store.close()


def test_reading_an_absent_store_writes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "absent")
    assert store.runs() == []
    assert store.checkpoints() == []
    with pytest.raises(NotFoundError, match="No training run 'x'"):
        store.run("x")
    store.close()
    assert not (tmp_path / "absent").exists()


def test_overwriting_replaces_everything_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path, WallClock())
    store.put(msgspec.structs.replace(checkpoint("a"), user_metadata={"k": "old"}), None, write("old"))
    with pytest.raises(ConflictError, match="overwrite=True"):
        store.check_new(RUN, "weights", "a", None, overwrite=False)
    store.check_new(RUN, "weights", "a", None, overwrite=True)
    store.put(checkpoint("a"), None, write("new"))
    assert [record.user_metadata for record in store.checkpoints()] == [None]
    assert (store.checkpoint_folder(RUN, "weights", "a") / "weights.bin").read_text() == "new"
    store.close()


def test_a_failed_write_leaves_the_old_checkpoint_and_no_traces(tmp_path: Path) -> None:
    store = Store(tmp_path, WallClock())
    store.put(checkpoint("a"), None, write("old"))

    def fail(folder: Path) -> None:
        folder.mkdir()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.put(checkpoint("a"), None, fail)
    assert (store.checkpoint_folder(RUN, "weights", "a") / "weights.bin").read_text() == "old"
    assert list((tmp_path / "staging").iterdir()) == []
    store.close()


def test_a_writer_killed_while_it_replaced_is_put_right_by_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path, WallClock())
    store.put(checkpoint("a"), None, write("old"))
    store.close()
    # What a kill between the two renames of a replacement leaves behind.
    final = store.checkpoint_folder(RUN, "weights", "a")
    final.rename(final.with_name(f"{final.name}!old"))
    (tmp_path / "staging" / "half").mkdir()

    later = Store(tmp_path, WallClock())
    assert later.checkpoints() == []
    later.claim()
    assert [record.name for record in later.checkpoints()] == ["a"]
    assert not (tmp_path / "staging").exists()
    later.close()


def test_an_expired_checkpoint_is_gone_and_its_files_are_deleted_later(tmp_path: Path) -> None:
    clock = WallClock()
    store = Store(tmp_path, clock)
    record = store.put(checkpoint("a"), 3600, write("a"))
    assert record.expires_at == NOON + timedelta(hours=1)
    clock.now = NOON + timedelta(hours=2)
    assert store.checkpoints() == []
    with pytest.raises(NotFoundError):
        store.checkpoint(RUN, "weights", "a")
    store.put(checkpoint("b"), None, write("b"))
    assert not store.checkpoint_folder(RUN, "weights", "a").exists()
    store.close()


@pytest.mark.parametrize(
    ("name", "ttl", "said"),
    [
        ("", None, "non-empty name"),
        ("a/b", None, "without '/'"),
        ("a", 3599, "3600 to"),
        ("a", 10**9, "got 1000000000"),
    ],
)
def test_a_checkpoint_that_cannot_be_is_refused(tmp_path: Path, name: str, ttl: int | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Store(tmp_path).check_new(RUN, "weights", name, ttl, overwrite=False)


def test_deleting_takes_the_files_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path, WallClock())
    store.put(checkpoint("a"), None, write("a"))
    store.delete(RUN, "weights", "a")
    assert not store.checkpoint_folder(RUN, "weights", "a").exists()
    with pytest.raises(NotFoundError):
        store.delete(RUN, "weights", "a")
    with pytest.raises(NotFoundError):
        store.delete(RUN, "..", "..")
    store.close()


@settings(deadline=None, max_examples=300)
@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_file_names_are_safe_and_never_shared(one: str, other: str) -> None:
    safe = escape(one)
    assert 0 < len(safe) <= 150
    assert not set(safe) & set('<>:"/\\|?*! ')
    assert not safe.startswith(".")
    assert not safe.endswith((".", " "))
    assert (safe == escape(other)) == (one == other)


@pytest.mark.parametrize("name", ["CON", "nul.txt", "com1", "..", ".", "a.", "a:b"])
def test_names_that_some_system_reserves_are_escaped(name: str) -> None:
    assert escape(name) != name


HOLD = """
import sys
from pathlib import Path
from tinkex_actors.engine.store.claim import StoreClaim
claim = StoreClaim(Path(sys.argv[1]))
print("claimed", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_by_name_until_the_first_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "claimed\n"
            store = Store(tmp_path, WallClock())
            assert store.checkpoints() == []
            with pytest.raises(ConfigError, match=f"process {other.pid} .*TINKEX_ENGINE_STORE"):
                store.write_run(run())
        finally:
            other.kill()
            other.communicate(timeout=30)
    # Killed, it left its file, and the kernel freed the lock.
    assert len(list((tmp_path / "owners").iterdir())) == 1
    store.write_run(run())
    assert [record.training_run_id for record in store.runs()] == [RUN]
    store.close()
    assert list((tmp_path / "owners").iterdir()) == []


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "tiny", WallClock())
    with pytest.raises(ConfigError, match=r"engine store .*file.*cannot be written .*TINKEX_ENGINE_STORE"):
        store.write_run(run())
    assert store.runs() == []


def test_two_engines_of_one_process_share_a_store(tmp_path: Path) -> None:
    one, other = Store(tmp_path, WallClock()), Store(tmp_path, WallClock())
    one.put(checkpoint("a"), None, write("a"))
    (tmp_path / "staging").mkdir(exist_ok=True)
    (tmp_path / "staging" / "being-written").mkdir()
    other.put(checkpoint("b"), None, write("b"))
    # The one that came second must not clean up behind a living one.
    assert (tmp_path / "staging" / "being-written").exists()
    one.close()
    other.put(checkpoint("c"), None, write("c"))
    assert len(other.checkpoints()) == 3
    other.close()
