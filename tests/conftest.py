"""Only a list of plugins: one concern a file, in ``tests/plugins``."""

from __future__ import annotations

pytest_plugins = ["tests.plugins.environment", "tests.plugins.live", "tests.plugins.names", "tests.plugins.tls"]
