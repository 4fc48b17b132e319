"""How a sampling client sends lost samples again."""

from __future__ import annotations

import math

import msgspec

from tinkex_actors.errors import ConfigError

__all__ = ["RetryConfig"]


class RetryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a sampling client sends lost samples again (official names; protocol 7.5).

    Attributes:
        progress_timeout: seconds since the call after which nothing is sent again.
        retry_delay_base: seconds before the first new submission; doubles with each one.
        retry_delay_max: longest delay in seconds.
        jitter_factor: share of the delay, in [0, 1], that chance may take away.
        enable_retry_logic: False fails at the first loss.
    """

    progress_timeout: float = 7200.0
    retry_delay_base: float = 0.5
    retry_delay_max: float = 10.0
    jitter_factor: float = 0.25
    enable_retry_logic: bool = True

    def __post_init__(self) -> None:
        for name in ("progress_timeout", "retry_delay_base", "retry_delay_max"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"RetryConfig.{name}: expected finite seconds above 0, got {getattr(self, name)!r}.")
        if not 0.0 <= self.jitter_factor <= 1.0:
            raise ConfigError(f"RetryConfig.jitter_factor: expected a share in [0, 1], got {self.jitter_factor!r}.")
