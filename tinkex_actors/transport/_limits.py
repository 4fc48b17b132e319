"""Connections per purpose, and what a transport says when something goes wrong; shared by every HTTP version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.errors import APIConnectionError, APIResponseValidationError, APITimeoutError
from tinkex_actors.redaction import redact, without_credentials

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    import aiohttp

    from tinkex_actors.config import Config
    from tinkex_actors.wire.exchange import Request

__all__ = [
    "MAX_REDIRECTS",
    "REDIRECTS",
    "Words",
    "kept_headers",
    "pool_limits",
    "read_within",
    "sample_slots",
    "tls_context",
]

# Connections per purpose. HTTP/1.1 spends one connection on every long poll, so polls have their own connector, and
# training has one that nothing else can fill. The polls of training and of samples share one, which has room for all
# samples that `sample_slots` lets in and 32 more.
_POOLS = {
    "auth": 2,
    "session": 8,
    "train": 32,
    "sample": 400,
    "retrieve_futures": 8,
    "rest_support_redirect": 8,
    "telemetry": 4,
}
_SAMPLE_POLLS = 1000
_TRAINING_POLLS = 32

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5

# What may be told to another origin than the one that the key belongs to.
_HARMLESS = frozenset({"accept", "user-agent", "range"})


def pool_limits(config: Config) -> dict[str, int]:
    """Return the connections of each pool: what the configuration sets, and our own limits for the rest."""
    chosen = dict(config.pool_limits)
    return {**_POOLS, "retrieve_promise": sample_slots(chosen.get("retrieve_promise")) + _TRAINING_POLLS, **chosen}


def sample_slots(chosen: int | None) -> int:
    """Return how many samples may be in flight where each holds a connection while it is polled.

    Args:
        chosen: what ``pool_limits`` says of the polls; None is at most 1000, and a quarter of the files that this
            process may open.
    """
    if chosen is not None:
        return max(1, chosen - _TRAINING_POLLS)
    try:
        import resource
    except ImportError:  # Windows knows no such limit
        return _SAMPLE_POLLS
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _SAMPLE_POLLS if files == resource.RLIM_INFINITY else max(1, min(_SAMPLE_POLLS, files // 4))


def tls_context(config: Config) -> ssl.SSLContext:
    """Return what is trusted: the system's certificates, as its other programs use them, and those of ``ca_file``.

    Raises:
        ConfigError: ``ca_file`` cannot be read or holds no certificate.
    """
    import ssl

    import truststore

    from tinkex_actors.errors import ConfigError

    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if config.ca_file is not None:
        try:
            context.load_verify_locations(cafile=str(config.ca_file))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"Config.ca_file: {config.ca_file} cannot be used: {error.strerror or error}. Expected a file of "
                "certificates in PEM form (TINKEX_CA_FILE)."
            ) from error
    return context


def kept_headers(headers: Mapping[str, str], *, same_origin: bool) -> dict[str, str]:
    """Return what is sent along with a redirect: to another origin nothing that says who we are."""
    return {name: value for name, value in headers.items() if same_origin or name.lower() in _HARMLESS}


async def read_within(content: aiohttp.StreamReader, budget_bytes: int) -> bytes | None:
    """Read a body whose size only the reading shows; None as soon as it is larger than the budget."""
    body = bytearray()
    while chunk := await content.readany():
        body += chunk
        if len(body) > budget_bytes:
            return None
    return bytes(body)


class Words:
    """Makes errors that name the request and show no credential.

    Args:
        config: its URLs and limits.
    """

    def __init__(self, config: Config, base_url: str) -> None:
        self._config = config
        self.shown_url = without_credentials(base_url)
        proxy = config.proxy or ""
        # Then the HTTP client's errors may name them too, and must not be seen as the cause of ours.
        self._private = self.shown_url != base_url or without_credentials(proxy) != proxy

    def where(self, request: Request) -> str:
        """Name a request."""
        return f"{request.method} {self.shown_url}{request.path}"

    def cause(self, error: BaseException) -> BaseException | None:
        """Return the error if it may be seen, else None."""
        return None if self._private else error

    def not_connected(self, request: Request) -> APITimeoutError:
        """No connection in time."""
        return APITimeoutError(
            f"{self.where(request)}: no connection within {self._config.connect_timeout:g} s. Check the base URL and "
            "that the server is up.",
            sent=False,
        )

    def too_slow(self, request: Request, busy: str = "") -> APITimeoutError:
        """No answer in time; ``busy`` says why it may never have been sent."""
        return APITimeoutError(f"{self.where(request)}: no answer within {request.timeout:g} s{busy}.")

    def fell_silent(self, request: Request) -> APITimeoutError:
        """Silence in the middle of an answer."""
        seconds = self._config.read_timeout or 0.0
        return APITimeoutError(f"{self.where(request)}: the server was silent for {seconds:g} s (Config.read_timeout).")

    def broken(self, request: Request, error: BaseException, *, sent: bool = True) -> APIConnectionError:
        """The connection failed; ``sent`` is False where there never was one."""
        words = redact(f"{type(error).__name__}: {error}").rstrip(".")
        return APIConnectionError(
            f"{self.where(request)}: {words}. Check the base URL and that the server is up.", sent=sent
        )

    def too_large(self, request: Request, size: int | None) -> APIResponseValidationError:
        """The body is larger than the budget; its size is None where only that is known."""
        limit = self._config.max_response_bytes
        found = f"more than {limit}" if size is None else f"{size}"
        return APIResponseValidationError(
            f"{self.where(request)}: the answer has {found} bytes, and Config.max_response_bytes is {limit}. Ask for "
            "less at once, or raise the limit."
        )

    def redirected(self, request: Request, why: str) -> APIConnectionError:
        """A redirect that is not followed."""
        return APIConnectionError(f"{self.where(request)}: {why}. Check the base URL.")
