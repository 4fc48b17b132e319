"""The way from the shells to one server: encode, send, retry by the machine's word, decode."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.link.carrier import Carrier
from tinkex_actors.actors.link.reads import Reads
from tinkex_actors.actors.link.speech import Speech
from tinkex_actors.errors import APIConnectionError, APIStatusError, CircuitOpenError
from tinkex_actors.machines.retry import Billing, Failure, RetryPolicy, decide, policy_for
from tinkex_actors.redaction import redact
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import AuthTokenRequest, FutureRetrieveRequest
from tinkex_actors.wire.client import decode_poll, decode_response, encode_request, poll_request
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tinkex_actors.config import Config
    from tinkex_actors.runtime import ActorSystem
    from tinkex_actors.transport import Transport
    from tinkex_actors.types import Severity
    from tinkex_actors.wire.client import PollAnswer
    from tinkex_actors.wire.dialect import Dialect
    from tinkex_actors.wire.exchange import Request, Response
    from tinkex_actors.wire.routes import Route

__all__ = ["Link"]

# What a route without a limit of its own has (protocol 1.1); `Config.timeout` stands in for it.
_ORDINARY_TIMEOUT = 60.0
_retry_log = Logger("tinkex_actors.retry")


class _Rules(msgspec.Struct, frozen=True):
    """How one exchange is tried again."""

    policy: RetryPolicy
    waits_for_billing: bool
    on_retry: Callable[[str], None] | None
    may_retry: Callable[[Failure], bool] | None


class Link:
    """One server, seen from the actors.

    Args:
        transport: carries the bytes.
        config: key and time-outs.
        system: clock and seeded generator.

    Attributes:
        speech: what was found out about the server, and the dialect that follows.
        compress: send training batches as zstd (the server's flag ``proto_compress_fwdbwd``).
        keyring: the credential that requests carry.
        breakers: the requests that are refused while the server keeps failing.
        billing: the pause after a 402, which every request of this server shares.
        on_trouble: hears of every request that goes again, as a telemetry event: name, data, severity.
    """

    def __init__(self, transport: Transport, *, config: Config, system: ActorSystem) -> None:
        self.transport = transport
        self.config = config
        self.system = system
        self.speech = Speech(config.shown_url, system=system)
        self.compress = False
        self.billing = Billing()
        self.on_trouble: Callable[[str, Mapping[str, Any], Severity], None] | None = None
        self._policy = policy_for(config.parity, config.max_retries)
        self._carrier = Carrier(transport, config=config, system=system, exchange=self._exchange_token)
        self._reads = Reads(config, system=system)
        self._headers = self._carrier.headers
        self.keyring = self._carrier.keyring
        self.breakers = self._carrier.breakers

    @property
    def dialect(self) -> Dialect:
        """What the server speaks, as far as it is known; begun by the session actor, corrected by refusals."""
        return self.speech.dialect

    async def exchange(
        self,
        route: Route,
        message: Any = None,
        *,
        path: Mapping[str, str] | None = None,
        query: Mapping[str, object] | None = None,
        policy: RetryPolicy | None = None,
        idempotency_key: str | None = None,
        on_retry: Callable[[str], None] | None = None,
        may_retry: Callable[[Failure], bool] | None = None,
    ) -> Any:
        """Send a message and return the decoded answer, retrying as ``policy`` says.

        The default policy is that of ``Config.parity``; under it, a promise that is refused for billing (402) is asked
        for again for an hour (protocol 4.6). The idempotency key stays the same over all attempts (protocol 1.2).
        ``on_retry`` hears, in words, why another attempt is needed; ``may_retry`` is asked about each failed one first.

        Raises:
            APIStatusError: the server's last word, when the policy gives up.
            APIConnectionError: no answer, when the policy gives up.
            RemoteWireError: an answer that cannot be read.
            UnsupportedByServerError: the server lacks the route, or what this message asks of it.
        """
        values, entries = path or {}, query or {}
        rules = _Rules(self._limited(policy), policy is None and route.asynchronous, on_retry, may_retry)
        key = idempotency_key or f"stainless-python-retry-{uuid.uuid4()}"
        if not self._reads.on:
            return await self._insist(route, message, values, entries, key, rules)
        return await self._reads.read(
            route, message, values, entries, lambda: self._insist(route, message, values, entries, key, rules)
        )

    async def _insist(
        self,
        route: Route,
        message: Any,
        path: Mapping[str, str],
        query: Mapping[str, object],
        key: str,
        rules: _Rules,
    ) -> Any:
        started = self.system.loop.time()
        attempt = 0
        before: APIStatusError | None = None
        while True:
            dialect, compressed = self.speech.dialect, self._compressing
            try:
                response = await self._send(route, message, path, query, attempt, key)
                answer = decode_response(route, response)
                self.speech.understood(route, dialect, compressed=compressed)
                return answer
            except APIStatusError as error:
                left = self.speech.learn(route, message, dialect, error, compressed=compressed, before=before)
                if left is None:
                    before = error
                    continue
                failure = Failure(status=left.status_code, retry_after=left.retry_after, should_retry=left.should_retry)
                problem: Exception = left
            except CircuitOpenError:
                raise  # to fail at once is what a breaker is for
            except APIConnectionError as error:
                failure, problem = Failure(status=None, sent=error.sent), error
            if rules.may_retry is not None and not rules.may_retry(failure):
                raise problem
            now = self.system.loop.time()
            if failure.status == 402 and rules.waits_for_billing:
                delay = self.billing.refused(now)
                started, elapsed = now, now - started  # the pause has a clock of its own
            else:
                elapsed = now - started
                delay = decide(rules.policy, attempt, elapsed, failure, self.system.rng.random())
            if delay is None:
                raise problem
            attempt += 1
            words = self._tell(route, problem, attempt, delay, elapsed)
            if rules.on_retry is not None:
                rules.on_retry(words)
            await self.pause(delay)

    def _tell(self, route: Route, problem: Exception, attempt: int, delay: float, elapsed: float) -> str:
        """Log that a request goes again, tell telemetry, and return it in words that hold no credential."""
        error = redact(str(problem))
        # A wait must not be silent, nor fill the log: attempts 1, 2, 4, 8 ... are worth a warning.
        log = _retry_log.warning if attempt & (attempt - 1) == 0 else _retry_log.info
        log("request.retry", route=route.name, attempt=attempt, delay=round(delay, 3), error=error)
        if self.on_trouble is not None:
            data: dict[str, Any] = {
                "func": route.name,
                "exception": error,
                "exception_type": type(problem).__name__,
                "is_retryable": True,
                "attempt_count": attempt,
                "elapsed_time": elapsed,
            }
            if isinstance(problem, APIStatusError):
                data["status_code"] = problem.status_code
            # The official client's name (protocol 9.2), under which the service knows it.
            self.on_trouble("InternalClientHolder.execute_with_retries.exception", data, "WARNING")
        return f"attempt {attempt + 1} in {delay:.1f} s, because of {error}"

    async def poll(
        self, request_id: str, route: Route, *, iteration: int, allow_metadata_only: bool, roundtrip: float | None
    ) -> PollAnswer:
        """Ask once for a promise's result (protocol part 4); raises what the transport and the status say."""
        while True:
            dialect = self.speech.dialect
            request = poll_request(
                request_id,
                route,
                dialect,
                iteration=iteration,
                allow_metadata_only=allow_metadata_only,
                roundtrip=roundtrip,
                headers=self._headers,
            )
            request.timeout = self.config.poll_timeout
            request.headers["x-stainless-read-timeout"] = f"{request.timeout:g}"
            try:
                return decode_poll(route, await self._carrier.send(request), dialect)
            except APIStatusError as error:
                asked = FutureRetrieveRequest(request_id=request_id, allow_metadata_only=allow_metadata_only)
                if self.speech.learn(ROUTES["retrieve_future"], asked, dialect, error) is not None:
                    raise

    @property
    def headers(self) -> Mapping[str, str]:
        """What every request carries, without the credential."""
        return self._headers

    async def authorize(self, request: Request) -> None:
        """Put what every request carries on one that is not sent by `exchange`: the credential and the query."""
        await self._carrier.dress(request)

    async def pause(self, seconds: float) -> None:
        """Wait on the system's clock."""
        await self.system.sleep(seconds)

    @property
    def _compressing(self) -> bool:
        return self.compress and self.speech.found.zstd

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
            route, message, self.dialect, path=path, query=query, headers=headers, compress=self._compressing
        )
        if route.timeout == _ORDINARY_TIMEOUT:
            request.timeout = self.config.exchange_timeout
        request.headers["x-stainless-read-timeout"] = f"{request.timeout:g}"
        return await self._carrier.send(request)

    def _limited(self, policy: RetryPolicy | None) -> RetryPolicy:
        most = self.config.max_retries
        if policy is None or most is None or (policy.max_attempts or most + 2) <= most + 1:
            return policy or self._policy
        return msgspec.structs.replace(policy, max_attempts=most + 1)

    async def _exchange_token(self, policy: RetryPolicy) -> str:
        answer = await self.exchange(ROUTES["auth_token"], AuthTokenRequest(), policy=policy)
        token: str = answer.jwt
        return token
