"""How a sampling client sends lost samples again."""

from __future__ import annotations

import math

import msgspec

from tinkex_actors.errors import APIConnectionError, ConfigError

__all__ = ["RetryConfig"]


class RetryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a sampling client sends lost samples again (official names; protocol 7.5).

    Attributes:
        progress_timeout: seconds since the call after which nothing is sent again.
        retry_delay_base: seconds before the first new submission; doubles with each one.
        retry_delay_max: longest delay in seconds.
        jitter_factor: share of the delay, in [0, 1], that chance may take away.
        enable_retry_logic: False fails at the first loss.
        enable_stuck_detection: fail what is pending once no sample of the session has ended for ``progress_timeout``.
        retryable_exceptions: errors to sample again for, beside a promise that the server has lost and the status
            codes that ask for it.
        max_connections: kept for programs that pass it; as with the official client, the server's flag
            ``sample_max_concurrent_requests`` decides. None is no limit.
    """

    progress_timeout: float = 7200.0
    retry_delay_base: float = 0.5
    retry_delay_max: float = 10.0
    jitter_factor: float = 0.25
    enable_retry_logic: bool = True
    enable_stuck_detection: bool = True
    retryable_exceptions: tuple[type[Exception], ...] = (TimeoutError, APIConnectionError)
    max_connections: int | None = 1000

    def __post_init__(self) -> None:
        for name in ("progress_timeout", "retry_delay_base", "retry_delay_max"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"RetryConfig.{name}: expected finite seconds above 0, got {getattr(self, name)!r}.")
        if not 0.0 <= self.jitter_factor <= 1.0:
            raise ConfigError(f"RetryConfig.jitter_factor: expected a share in [0, 1], got {self.jitter_factor!r}.")
        if self.max_connections is not None and self.max_connections < 1:
            raise ConfigError(
                f"RetryConfig.max_connections: expected 1 or more, or None, got {self.max_connections!r}."
            )
        for kind in self.retryable_exceptions:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise ConfigError(f"RetryConfig.retryable_exceptions: expected exception classes, got {kind!r}.")
