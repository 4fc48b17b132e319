"""BaseExceptions leave the loop, scripts get their exit codes, signals stop in order."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap

import pytest

from tinkex_actors.runtime import Actor, ActorSystem, handler
from tinkex_actors.testing import run_virtual


class Exiting(Actor):
    @handler
    def leave(self, error: BaseException) -> None:
        raise error

    @handler
    async def leave_later(self, error: BaseException) -> None:
        await asyncio.sleep(1.0)
        raise error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("how", ["cast", "call", "async"])
def test_an_exit_is_never_swallowed(error: BaseException, how: str) -> None:
    async def main() -> None:
        async with ActorSystem() as system:
            ref = await system.spawn(Exiting)
            if how == "cast":
                ref.cast.leave(error)
            elif how == "call":
                await ref.call.leave(error)
            else:
                ref.cast.leave_later(error)
            await asyncio.sleep(10.0)

    with pytest.raises(type(error)):
        run_virtual(main())


def script(body: str) -> list[str]:
    text = """
import asyncio, sys
from tinkex_actors.runtime import *

class Bad(Actor):
    @handler
    def crash(self):
        raise ZeroDivisionError("planted")

class Good(Actor):
    async def on_stop(self, reason):
        print("stopped in order", flush=True)
"""
    return [sys.executable, "-c", text + textwrap.dedent(body)]


def run_script(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(script(body), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_a_script_returns_its_result() -> None:
    done = run_script("""
        async def main():
            async with ActorSystem() as system:
                await system.spawn(Good)
            return 42
        assert run(main()) == 42
    """)
    assert (done.returncode, done.stdout) == (0, "stopped in order\n"), done.stderr


@pytest.mark.slow
def test_a_failed_system_is_exit_code_1() -> None:
    done = run_script("""
        async def main():
            async with ActorSystem(max_restarts=0) as system:
                await system.spawn(Good)
                (await system.spawn(Bad)).cast.crash()
                await asyncio.sleep(60)
        run(main())
    """)
    assert done.returncode == 1, done.stderr
    assert "stopped in order" in done.stdout
    assert "allows 0 restarts" in done.stderr


@pytest.mark.slow
def test_a_thread_that_does_not_end_is_exit_code_70() -> None:
    done = run_script("""
        import threading
        async def main():
            async with ActorSystem(stop_timeout=0.2) as system:
                asyncio.ensure_future(system.blocking(threading.Event().wait))
                await asyncio.sleep(0.01)
        run(main())
    """)
    assert done.returncode == 70, done.stderr
    assert "Event.wait" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_in_order(number: signal.Signals) -> None:
    body = """
        async def main():
            async with ActorSystem() as system:
                await system.spawn(Good)
                print("ready", flush=True)
                await asyncio.sleep(60)
        run(main())
    """
    with subprocess.Popen(script(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert out == "stopped in order\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_a_second_signal_ends_the_process_at_once() -> None:
    body = """
        class Slow(Actor):
            async def on_stop(self, reason):
                print("stopping", flush=True)
                await asyncio.sleep(60)
        async def main():
            async with ActorSystem() as system:
                await system.spawn(Slow, shutdown=60.0)
                print("ready", flush=True)
                await asyncio.sleep(60)
        run(main())
    """
    with subprocess.Popen(script(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT, err
