"""The live suite talks to a real service and spends real money: it is deselected, unless ``TINKEX_LIVE=1`` asks for it.

Deselected tests are no skips: by default nothing here is meant to run.
"""

from __future__ import annotations

import os

import pytest

from tinkex_actors import Config, ConfigError

_ON = ("1", "true", "yes", "on")
_OFF = ("", "0", "false", "no", "off")
_CONFIG: pytest.StashKey[Config | None] = pytest.StashKey()


def live_config(environ: dict[str, str]) -> Config | None:
    """Return the settings of a live run, or None where none is asked for.

    Raises:
        pytest.UsageError: asked for without a key, or with a value that is neither yes nor no.
    """
    switch = environ.get("TINKEX_LIVE", "").strip().lower()
    if switch in _OFF:
        return None
    if switch not in _ON:
        raise pytest.UsageError(f"TINKEX_LIVE: expected 1 or 0, got {environ['TINKEX_LIVE']!r}.")
    if not environ.get("TINKER_API_KEY"):
        raise pytest.UsageError("TINKEX_LIVE=1 needs TINKER_API_KEY: the live suite talks to a real service.")
    try:
        config = Config.from_environment(environ=environ)
        config.require_key()
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None
    return config


def pytest_configure(config: pytest.Config) -> None:
    # Now, because tests run without the user's variables.
    config.stash[_CONFIG] = live_config(dict(os.environ))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.stash[_CONFIG] is None and (live := [item for item in items if item.get_closest_marker("live")]):
        config.hook.pytest_deselected(items=live)
        items[:] = [item for item in items if not item.get_closest_marker("live")]


@pytest.fixture(scope="session")
def service_config(request: pytest.FixtureRequest) -> Config:
    """The settings of the service that the live suite talks to."""
    config = request.config.stash[_CONFIG]
    assert config is not None, "only tests marked `live` may ask for this"
    return config
