"""Tests run the same on every machine: no setting of the user's reaches them, and none writes into the user's store."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator

import pytest

# The cache stays the user's: weights are fetched once, and compiled programs are kept between runs.
KEPT = {"TINKEX_CACHE_DIR", "TINKEX_TEST_SEEDS"}


@pytest.fixture(scope="session", autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Unset every variable that ``config`` would read; the engine's store and telemetry's spool are temporary folders.

    Processes that a test starts inherit it.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("TINKER_", "TINKEX_")) and name not in KEPT]:
            patch.delenv(name)
        patch.setenv("TINKEX_ENGINE_STORE", str(tmp_path_factory.mktemp("engine-store")))
        patch.setenv("TINKEX_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _logs_as_nobody_set_them() -> Iterator[None]:
    """Take back what a test, or a command that it ran, has set for the whole process's logs."""
    yield
    structlog = sys.modules.get("structlog")
    if structlog is not None and structlog.is_configured():
        structlog.reset_defaults()
    branch = logging.getLogger("tinkex_actors")
    if branch.handlers or branch.level:
        branch.handlers.clear()
        for name, logger in logging.root.manager.loggerDict.items():
            if name.startswith("tinkex_actors") and isinstance(logger, logging.Logger):
                logger.setLevel(logging.NOTSET)
