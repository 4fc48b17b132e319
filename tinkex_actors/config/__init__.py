"""Settings: one immutable :class:`Config`, and the only reader of the environment."""

from tinkex_actors.config.breaker import BreakerConfig
from tinkex_actors.config.retry import RetryConfig
from tinkex_actors.config.settings import DEFAULT_BASE_URL, SDK_VERSION, Config, pairs_of

__all__ = [
    "DEFAULT_BASE_URL",
    "SDK_VERSION",
    "BreakerConfig",
    "Config",
    "RetryConfig",
    "pairs_of",
]
