"""One writer at a time: a living one refuses others by name, a dead one holds nobody up."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tinkex_actors import RunError, RunLockedError
from tinkex_actors.runs.lease import Lease, owner_of

HOLDER = """
import sys, time
from pathlib import Path
from tinkex_actors.runs.lease import Lease
lease = Lease(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_writer_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "run")
    try:
        with pytest.raises(RunLockedError) as refused:
            Lease(tmp_path / "run")
    finally:
        lease.release()

    error = refused.value
    assert (error.pid, error.host) == (os.getpid(), socket.gethostname())
    assert error.since
    assert f"process {error.pid} on {error.host}, since {error.since}" in error.message
    assert "another folder" in error.message
    again = pickle.loads(pickle.dumps(error))
    assert (again.pid, again.host, again.since, again.path) == (error.pid, error.host, error.since, error.path)


def test_a_lease_that_was_given_back_can_be_had(tmp_path: Path) -> None:
    first = Lease(tmp_path)
    first.release()
    first.release()

    second = Lease(tmp_path)

    assert second.predecessor is None
    second.release()


def test_asking_who_holds_a_run_takes_and_changes_nothing(tmp_path: Path) -> None:
    assert owner_of(tmp_path / "nothing") is None
    assert not (tmp_path / "nothing").exists()
    lease = Lease(tmp_path)
    owner = owner_of(tmp_path)
    assert owner is not None
    assert owner.pid == os.getpid()
    lease.release()
    assert owner_of(tmp_path) is None


@pytest.mark.slow
def test_a_living_process_refuses_and_a_killed_one_is_taken_over(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLockedError) as refused:
            Lease(tmp_path)
        holder.send_signal(signal.SIGKILL)

    assert refused.value.pid == holder.pid
    lease = Lease(tmp_path)
    assert lease.predecessor is not None
    assert lease.predecessor.pid == holder.pid
    lease.release()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(RunError, match=r"file.*cannot be written"):
        Lease(tmp_path / "file" / "run")


def test_a_folder_that_takes_no_more_is_told_and_the_lock_given_back(tmp_path: Path) -> None:
    (tmp_path / "owner.json.new").mkdir()  # in the way, as a full disk would be

    with pytest.raises(RunError, match="disk has room"):
        Lease(tmp_path)

    assert owner_of(tmp_path) is None
