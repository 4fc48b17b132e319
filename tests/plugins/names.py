"""The names of tests: the same in every process that collects them."""

from __future__ import annotations


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name long bytes by their argument: they may hold the time, as gzip's do."""
    return argname if isinstance(val, bytes) and len(val) > 40 else None
