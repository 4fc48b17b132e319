"""Fixtures and an option for pytest. Load it with ``pytest_plugins = ["tinkex_actors.testing.pytest_plugin"]``.

It is no automatic entry point: that would import the package in every test session of the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from tinkex_actors.testing.strict import StrictSystem
from tinkex_actors.testing.virtual_time import SEEDS_VARIABLE, run_virtual, seeds

__all__ = ["pytest_addoption", "pytest_configure", "pytest_unconfigure", "simulate", "strict_system"]

T = TypeVar("T")

BEFORE = pytest.StashKey[str | None]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--sim-seeds``."""
    group = parser.getgroup("tinkex_actors")
    group.addoption("--sim-seeds", type=int, metavar="N", help="run every @seeds test under N seeds")


def pytest_configure(config: pytest.Config) -> None:
    """Put the option where ``seeds`` looks for it."""
    count = config.getoption("--sim-seeds")
    if count is not None:
        config.stash[BEFORE] = os.environ.get(SEEDS_VARIABLE)
        os.environ[SEEDS_VARIABLE] = str(count)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Put the environment back as it was."""
    before = config.stash.get(BEFORE, "")
    if before is None:
        del os.environ[SEEDS_VARIABLE]
    elif before:
        os.environ[SEEDS_VARIABLE] = before


@pytest.fixture
def simulate() -> Callable[..., None]:
    """Return ``simulate(function, *args, count=200)``: run a coroutine function in virtual time under many seeds.

    ``count=None`` runs it once, in asyncio's own order. A failure is shrunk and says how to replay it.
    """

    def run(function: Callable[..., Coroutine[Any, Any, None]], *args: Any, count: int | None = 200) -> None:
        if count is None:
            run_virtual(function(*args))
        else:
            seeds(count)(function)(*args)

    return run


@pytest.fixture
def strict_system() -> Iterator[Callable[..., StrictSystem]]:
    """Return what makes ``StrictSystem``s: they must lose no message, and have ended when the test ends."""
    made: list[StrictSystem] = []

    def make(*args: Any, **options: Any) -> StrictSystem:
        system = StrictSystem(*args, **options)
        made.append(system)
        return system

    yield make
    running = [system.name for system in made if system.running]
    assert not running, f"systems still running at the end of the test: {running}; use `async with`"
