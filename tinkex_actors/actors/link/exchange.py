"""The way from the shells to one server: encode, send, retry by the machine's word, decode."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

from tinkex_actors.config import SDK_VERSION
from tinkex_actors.errors import APIConnectionError, APIStatusError
from tinkex_actors.machines.retry import Failure, RetryPolicy, decide
from tinkex_actors.runtime.log import Logger
from tinkex_actors.wire import dialect as dialects
from tinkex_actors.wire.client import base_headers, decode_poll, decode_response, encode_request, poll_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tinkex_actors.config import Config
    from tinkex_actors.runtime import ActorSystem
    from tinkex_actors.transport import Transport
    from tinkex_actors.wire.client import PollAnswer
    from tinkex_actors.wire.dialect import Dialect
    from tinkex_actors.wire.exchange import Request, Response
    from tinkex_actors.wire.routes import Route

__all__ = ["PATIENT", "Link"]

# Protocol 1.5: 300 seconds, from the first attempt.
PATIENT = RetryPolicy()

# What a route without a limit of its own has (protocol 1.1); `Config.timeout` stands in for it.
_ORDINARY_TIMEOUT = 60.0
_UNSUPPORTED_MEDIA_TYPE = 415
_log = Logger("tinkex_actors.http")


class Link:
    """One server, seen from the actors.

    Args:
        transport: carries the bytes.
        config: key and time-outs.
        system: clock and seeded generator.

    Attributes:
        dialect: what the server speaks; found by the session actor, then fixed, except that a server that refuses
            protobuf (415) is spoken to in JSON from then on.
        compress: send training batches as zstd (the server's flag ``proto_compress_fwdbwd``).
    """

    def __init__(self, transport: Transport, *, config: Config, system: ActorSystem) -> None:
        self.transport = transport
        self.config = config
        self.system = system
        self.dialect: Dialect = dialects.HOSTED
        self.compress = False
        self._headers = base_headers(config.api_key, SDK_VERSION)

    async def exchange(
        self,
        route: Route,
        message: Any = None,
        *,
        path: Mapping[str, str] | None = None,
        query: Mapping[str, object] | None = None,
        policy: RetryPolicy = PATIENT,
        idempotency_key: str | None = None,
        on_retry: Callable[[str], None] | None = None,
    ) -> Any:
        """Send a message and return the decoded answer, retrying as ``policy`` says.

        The idempotency key stays the same over all attempts (protocol 1.2). ``on_retry`` hears, in words, why another
        attempt is needed.

        Raises:
            APIStatusError: the server's last word, when the policy gives up.
            APIConnectionError: no answer, when the policy gives up.
            RemoteWireError: an answer that cannot be read.
        """
        started = self.system.loop.time()
        key = idempotency_key or f"stainless-python-retry-{uuid.uuid4()}"
        attempt = 0
        while True:
            try:
                response = await self._send(route, message, path or {}, query or {}, attempt, key)
                return decode_response(route, response)
            except APIStatusError as error:
                if error.status_code == _UNSUPPORTED_MEDIA_TYPE and self.dialect.protobuf:
                    self.dialect = dialects.JSON
                    _log.info("dialect.changed", route=route.name, reason="415 to protobuf", dialect=self.dialect.name)
                    continue
                failure = Failure(
                    status=error.status_code, retry_after=error.retry_after, should_retry=error.should_retry
                )
                problem: Exception = error
            except APIConnectionError as error:
                failure, problem = Failure(status=None), error
            elapsed = self.system.loop.time() - started
            delay = decide(policy, attempt, elapsed, failure, self.system.rng.random())
            if delay is None:
                raise problem
            attempt += 1
            words = f"attempt {attempt + 1} in {delay:.1f} s, because of {problem}"
            if on_retry is not None:
                on_retry(words)
            # A wait must not be silent, nor fill the log: attempts 1, 2, 4, 8 ... are worth a warning.
            log = _log.warning if attempt & (attempt - 1) == 0 else _log.info
            log("request.retry", route=route.name, attempt=attempt, delay=round(delay, 3), error=str(problem))
            await self.pause(delay)

    async def poll(
        self, request_id: str, route: Route, *, iteration: int, allow_metadata_only: bool, roundtrip: float | None
    ) -> PollAnswer:
        """Ask once for a promise's result (protocol part 4); raises what the transport and the status say."""
        request = poll_request(
            request_id,
            route,
            self.dialect,
            iteration=iteration,
            allow_metadata_only=allow_metadata_only,
            roundtrip=roundtrip,
        )
        request.headers = self._headers | request.headers
        request.timeout = self.config.poll_timeout
        request.headers["x-stainless-read-timeout"] = f"{request.timeout:g}"
        return decode_poll(route, await self._carry(request), self.dialect)

    async def pause(self, seconds: float) -> None:
        """Wait on the system's clock."""
        await self.system.sleep(seconds)

    async def _send(
        self,
        route: Route,
        message: Any,
        path: Mapping[str, str],
        query: Mapping[str, object],
        attempt: int,
        key: str,
    ) -> Response:
        headers = {**self._headers, "x-stainless-retry-count": str(attempt)}
        if route.method != "GET":
            headers["X-Idempotency-Key"] = key
        request = encode_request(
            route, message, self.dialect, path=path, query=query, headers=headers, compress=self.compress
        )
        if route.timeout == _ORDINARY_TIMEOUT:
            request.timeout = self.config.timeout
        request.headers["x-stainless-read-timeout"] = f"{request.timeout:g}"
        return await self._carry(request)

    async def _carry(self, request: Request) -> Response:
        try:
            return await self.transport.send(request)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody asked this task to stop: taken for a cancellation, it would end in silence and its caller wait on.
            raise APIConnectionError(
                f"{request.method} {request.path}: the transport gave the exchange up, as a closing one does."
            ) from error
