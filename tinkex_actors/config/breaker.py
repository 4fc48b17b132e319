"""When to stop asking a server that does not answer."""

from __future__ import annotations

import math

import msgspec

from tinkex_actors.errors import ConfigError

__all__ = ["BreakerConfig"]


class BreakerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """When a circuit breaker opens and how it closes again (defaults of the Elixir client).

    Attributes:
        failure_threshold: failures in a row that open it; at least 1.
        reset_timeout: seconds it stays open before it lets probes through.
        half_open_max_calls: probes at a time while it is half open; at least 1.
    """

    failure_threshold: int = 5
    reset_timeout: float = 30.0
    half_open_max_calls: int = 1

    def __post_init__(self) -> None:
        for name in ("failure_threshold", "half_open_max_calls"):
            if getattr(self, name) < 1:
                raise ConfigError(f"BreakerConfig.{name}: expected at least 1, got {getattr(self, name)!r}.")
        if not 0 < self.reset_timeout < math.inf:
            raise ConfigError(
                f"BreakerConfig.reset_timeout: expected finite seconds above 0, got {self.reset_timeout!r}."
            )
