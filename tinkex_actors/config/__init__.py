"""Settings: one immutable :class:`Config`, and the only reader of the environment."""

from tinkex_actors.config.settings import DEFAULT_BASE_URL, SDK_VERSION, Config, RetryConfig, without_credentials

__all__ = ["DEFAULT_BASE_URL", "SDK_VERSION", "Config", "RetryConfig", "without_credentials"]
