"""The spool: whole batches, one sender each, bounded, and readable after a power cut."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.actors.telemetry import Spool, spool_name
from tinkex_actors.types import GenericEvent, TelemetrySendRequest

NOW = 1_800_000_000.0


def batch(number: int, size: int = 3) -> TelemetrySendRequest:
    events = [
        GenericEvent(
            event_id=f"{number}-{index}",
            event_session_index=index,
            timestamp=datetime(2026, 1, 1, tzinfo=UTC),
            event_name="mine",
            event_data={"text": "ü" * 10},
        )
        for index in range(size)
    ]
    return TelemetrySendRequest(
        events=list(events), platform="Linux", sdk_version="1", session_id=f"s{number}", process_uuid="p"
    )


def drain(spool: Spool, now: float = NOW) -> list[TelemetrySendRequest]:
    found = []
    while (claim := spool.claim(now)) is not None:
        found.append(claim.request)
        spool.remove(claim)
    return found


def test_batches_come_back_whole_and_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "deep" / "spool")
    assert not spool.exists
    assert spool.claim(NOW) is None
    spool.write([batch(1), batch(2)], NOW)
    spool.write([batch(3)], NOW + 1.0)
    assert drain(Spool(spool.folder), NOW + 2.0) == [batch(1), batch(2), batch(3)]
    assert list(spool.folder.iterdir()) == []


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.write([batch(1)], NOW)
    (path,) = spool.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700


def test_two_processes_never_send_the_same_batch(tmp_path: Path) -> None:
    one, other = Spool(tmp_path), Spool(tmp_path)
    one.write([batch(1), batch(2)], NOW)
    first, second = one.claim(NOW), other.claim(NOW)
    assert first is not None
    assert second is not None
    assert {first.request.session_id, second.request.session_id} == {"s1", "s2"}
    assert one.claim(NOW) is None


def test_what_could_not_be_sent_is_given_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([batch(1)], NOW)
    claim = spool.claim(NOW)
    assert claim is not None
    spool.give_back(claim)
    assert drain(spool) == [batch(1)]
    spool.give_back(claim)  # gone meanwhile: nothing happens


def test_the_claim_of_a_dead_process_is_given_back_after_a_while(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([batch(1)], NOW)
    assert spool.claim(NOW) is not None
    assert spool.claim(NOW + 599.0) is None
    assert drain(spool, NOW + 601.0) == [batch(1)]


def test_old_batches_are_dropped(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_age=100.0)
    spool.write([batch(1)], NOW)
    spool.write([batch(2)], NOW + 90.0)
    assert drain(spool, NOW + 110.0) == [batch(2)]


def test_the_newest_batches_are_kept_up_to_the_size(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([batch(0)], NOW)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    spool.max_bytes = 3 * size + 10
    for number in range(1, 10):
        spool.write([batch(number)], NOW + number)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= spool.max_bytes
    assert drain(spool, NOW + 10.0) == [batch(7), batch(8), batch(9)]


@given(cut=st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_a_torn_end_is_dropped_and_what_stands_before_it_is_sent(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool"))
    spool.write([batch(1)], NOW)
    (path,) = spool.folder.iterdir()
    whole = path.read_bytes()
    cut %= len(whole)
    path.write_bytes(whole[:cut])
    lines = whole[:cut].count(b"\n")
    # The last line counts without its end too, if only that is missing.
    complete = lines + (whole[cut : cut + 1] == b"\n" and cut > 0)
    sent = drain(spool)
    assert [event.event_id for request in sent for event in request.events] == [f"1-{n}" for n in range(complete - 1)]
    assert list(spool.folder.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x00" * 100, b"[]\n{}\n", b'{"events": []}\n', b"\xff\xfe"])
def test_a_file_of_nonsense_is_removed_and_the_next_one_sent(content: bytes, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    (tmp_path / f"{round(NOW * 1000):015d}-x.jsonl").write_bytes(content)
    (tmp_path / "what-is-this.jsonl").write_bytes(content)
    (tmp_path / "notes.txt").write_bytes(b"not ours")
    spool.write([batch(1)], NOW + 1.0)
    assert drain(spool, NOW + 2.0) == [batch(1)]
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_servers_and_accounts_have_spools_of_their_own() -> None:
    names = {
        spool_name(url, key) for url in ("https://a.test", "https://b.test") for key in (None, "tml-aaaaaaaa", "tml-b")
    }
    assert len(names) == 6
    assert all(name.isalnum() and len(name) == 16 for name in names)
