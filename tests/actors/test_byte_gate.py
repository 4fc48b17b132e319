"""Waiting for room in a byte budget: in order, and nothing is lost to cancellation."""

from __future__ import annotations

import asyncio

import pytest

from tinkex_actors.actors.byte_gate import ByteGate
from tinkex_actors.testing import settle, virtual_time


@virtual_time()
async def test_an_oversize_item_passes_alone_and_the_rest_follow_in_order() -> None:
    gate, order = ByteGate(10), []

    async def pass_through(name: str, size_bytes: int) -> None:
        async with gate.passing(size_bytes):
            order.append(name)
            await asyncio.sleep(1.0)

    async with asyncio.TaskGroup() as group:
        for name, size_bytes in (("huge", 100), ("a", 4), ("b", 4), ("c", 4)):
            group.create_task(pass_through(name, size_bytes))
        await settle()
        assert order == ["huge"]

    assert order == ["huge", "a", "b", "c"]


@virtual_time()
async def test_a_cancelled_wait_takes_nothing() -> None:
    gate = ByteGate(0)
    async with gate.passing(5):
        waiting = asyncio.get_running_loop().create_task(_enter(gate))
        await settle()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(1.0), gate.passing(1):
        pass


@virtual_time()
async def test_a_wait_cancelled_as_it_is_granted_gives_back_what_it_got() -> None:
    gate = ByteGate(0)
    async with gate.passing(5):
        waiting = asyncio.get_running_loop().create_task(_enter(gate))
        await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1.0), gate.passing(1):
        pass


async def _enter(gate: ByteGate) -> None:
    async with gate.passing(5):
        await asyncio.sleep(1.0)
