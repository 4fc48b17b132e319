"""One exchange with the server, as every request has it: its headers, its credential, and what an answer says beside.

Credentials are put in at the last moment, so that a request which waited for its turn carries the one of now.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

from tinkex_actors.actors.attribution import calling
from tinkex_actors.actors.link.breakers import Breakers
from tinkex_actors.actors.link.keyring import Keyring
from tinkex_actors.config import SDK_VERSION, pairs_of
from tinkex_actors.config.redaction import is_secret_header
from tinkex_actors.errors import APIConnectionError, ConfigError
from tinkex_actors.redaction import MASK
from tinkex_actors.runtime.log import Logger
from tinkex_actors.wire.classification import classify
from tinkex_actors.wire.client import base_headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tinkex_actors.config import Config
    from tinkex_actors.machines.retry import RetryPolicy
    from tinkex_actors.runtime import ActorSystem
    from tinkex_actors.transport import Transport
    from tinkex_actors.wire.exchange import Request, Response

__all__ = ["Carrier"]

_KEY = "X-API-Key"
# So many 400s without a body are laid at a proxy's door, less one for each, plus one for each success (protocol 1.5).
_PROXY_PATIENCE = 16
# What the codec, the link and the transport set for single requests, by the names they use.
_SET_LATER = ("Accept", "Accept-Encoding", "Content-Type", "Content-Encoding", "Host", "X-Idempotency-Key")
_log = Logger("tinkex_actors.http")


class Carrier:
    """Sends requests through a transport.

    Args:
        transport: carries the bytes.
        config: headers, credential, breakers.
        system: clock and events.
        exchange: sends ``auth/token`` under a policy and returns the token.

    Attributes:
        headers: what every request carries, without the credential.
        keyring: the credential.
        breakers: which requests are refused, where that is asked for.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        config: Config,
        system: ActorSystem,
        exchange: Callable[[RetryPolicy], Awaitable[str]],
    ) -> None:
        self._transport = transport
        self._dumps = config.dump_headers
        self.keyring = Keyring(config, system=system, exchange=exchange)
        self.breakers = Breakers(config.breaker, system=system)
        self.headers = _headers(config)
        self._own_key = any(name.lower() == _KEY.lower() for name in self.headers)
        self._query = [
            (name, f"{quote(name)}={quote(value, safe=':,')}") for name, value in pairs_of(config.default_query)
        ]
        self._inject = _trace_injector() if config.otel_propagate else None
        self._proxy_patience = _PROXY_PATIENCE
        self._notes: set[str] = set()

    async def send(self, request: Request) -> Response:
        """Exchange one request, with a second try for one whose credential was refused.

        Raises:
            APIConnectionError: no answer; ``CircuitOpenError`` where nothing was sent.
            APIStatusError: a 400 without a body, once a proxy can no longer be to blame for them.
            CredentialsError: there is no usable credential.
        """
        key = await self.dress(request)
        response = await self._carry(request)
        if response.status == 401 and key:
            fresh = await self.keyring.replacement(
                key, response.headers.get("www-authenticate", ""), raw=request.pool == "auth"
            )
            if fresh is not None:
                request.headers[_KEY] = fresh
                response = await self._carry(request)
        _log.debug("request.answered", method=request.method, path=request.path, status=response.status)
        if "x-deprecation-note" in response.headers:
            self._note(response)
        self._judge_proxy(request, response)
        return response

    async def dress(self, request: Request) -> str | None:
        """Put on a request what every one has: the credential (returned), whose it is, the program's query, the trace.

        Raises:
            CredentialsError: there is no usable one.
        """
        if self._query:
            request.path = self._with_query(request.path)
        if self._inject is not None:
            self._inject(request.headers)
        caller = calling.get()
        if caller is not None and request.pool != "auth":  # a token is for every call
            request.headers["x-sdk-version"] = SDK_VERSION
            request.headers["x-sdk-method"] = caller
        if self._own_key:
            return None
        keyring = self.keyring
        key = keyring.raw if keyring.fixed else await keyring.current(raw=request.pool == "auth")
        if key:
            request.headers[_KEY] = key
        return key

    async def _carry(self, request: Request) -> Response:
        if self._dumps:
            shown = {name: MASK if is_secret_header(name) else value for name, value in request.headers.items()}
            _log.info("request.headers", method=request.method, path=request.path, headers=shown)
        try:
            if self.breakers.on:
                return await self.breakers.send(request, self._transport)
            return await self._transport.send(request)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody asked this task to stop: taken for a cancellation, it would end in silence and its caller wait on.
            raise APIConnectionError(
                f"{request.method} {request.path}: the transport gave the exchange up, as a closing one does."
            ) from error

    def _judge_proxy(self, request: Request, response: Response) -> None:
        if response.status < 300:
            if self._proxy_patience < _PROXY_PATIENCE:
                self._proxy_patience += 1
        elif response.status == 400 and not response.body:
            self._proxy_patience -= 1
            if self._proxy_patience < 0:
                self._proxy_patience = 0
                raise classify(response, f"{request.method} {request.path}")

    def _note(self, response: Response) -> None:
        note = response.headers["x-deprecation-note"]
        if note not in self._notes:  # once: the server says it with every answer
            self._notes.add(note)
            log = _log.error if response.headers.get("x-deprecation-level", "").lower() == "error" else _log.warning
            log("server.deprecation", note=note)

    def _with_query(self, path: str) -> str:
        bare, _, query = path.partition("?")
        # What the request says itself wins.
        said = {entry.partition("=")[0] for entry in query.split("&")}
        entries = [entry for name, entry in self._query if quote(name) not in said]
        return "?".join(filter(None, (bare, "&".join(filter(None, (query, *entries))))))


def _headers(config: Config) -> dict[str, str]:
    """Our headers, Cloudflare's, and the program's own on top, each name in one spelling only."""
    headers = base_headers(None, SDK_VERSION)
    if config.cf_access_client_id:
        headers["CF-Access-Client-Id"] = config.cf_access_client_id
    if config.cf_access_client_secret:
        headers["CF-Access-Client-Secret"] = config.cf_access_client_secret
    spelling = {name.lower(): name for name in (*_SET_LATER, *headers)}
    for name, value in pairs_of(config.default_headers):
        headers[spelling.get(name.lower(), name)] = value
    return headers


def _trace_injector() -> Callable[[dict[str, str]], None]:
    try:
        from opentelemetry import propagate
    except ImportError as error:
        raise ConfigError(
            "Config.otel_propagate: needs opentelemetry-api. Install it (pip install opentelemetry-api), or leave "
            "TINKEX_OTEL_PROPAGATE out."
        ) from error

    def inject(headers: dict[str, str]) -> None:
        found: dict[str, str] = {}
        propagate.inject(found)
        for name, value in found.items():
            headers.setdefault(name, value)

    return inject
