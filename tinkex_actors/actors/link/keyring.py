"""The credential that requests carry: asked for, exchanged for a token, renewed, replaced when refused (protocol 5.8).

Nothing here runs in the background. A request that finds a token past half of its life, or a provider's key older than
five minutes, renews it on its way; the others go on with the old one meanwhile. Heartbeats come every ten seconds, so a
renewal is never late by more, and nobody waits for one that is not needed yet.
"""

from __future__ import annotations

import asyncio
import datetime
from typing import TYPE_CHECKING

from tinkex_actors.actors.link.events import CredentialReplaced
from tinkex_actors.actors.link.sources import command_source, credential_source
from tinkex_actors.errors import AuthenticationError, CredentialsError, TinkexError
from tinkex_actors.machines import tokens
from tinkex_actors.machines.retry import NO_RETRY, RetryPolicy
from tinkex_actors.redaction import hide
from tinkex_actors.runtime.log import Logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tinkex_actors.config import Config
    from tinkex_actors.runtime import ActorSystem

__all__ = ["Keyring"]

# Ten retries, as the official client's exchange has (protocol 5.8).
_FIRST_EXCHANGE = RetryPolicy(max_attempts=11)
_PROVIDER_FRESH = 300.0
_log = Logger("tinkex_actors.http")


class Keyring:
    """One credential, and the token it is exchanged for.

    Args:
        config: where the credential comes from.
        system: the clock, chance and events.
        exchange: sends ``auth/token`` under a policy and returns the token.
    """

    def __init__(
        self, config: Config, *, system: ActorSystem, exchange: Callable[[RetryPolicy], Awaitable[str]]
    ) -> None:
        self._system = system
        self._config = config
        self._exchange = exchange
        self._source = credential_source(config)
        self._changing = config.credential_provider is not None
        self._credential = None if self._source is not None else config.api_key or None
        self._asked_at = 0.0
        self._token: tokens.Token | None = None
        self._exchanging = False
        self._asking = asyncio.Lock()
        self._renewing = asyncio.Lock()
        self._hidden: list[Callable[[], None]] = []
        self.fixed = self._source is None and not tokens.is_jwt(self._credential or "")
        self.raw = self._credential

    def follow(self, *, exchanging: bool, from_command: bool) -> None:
        """Take the server's word (protocol 5.2).

        Args:
            exchanging: ``pjwt_auth_enabled``: exchange the credential for a token.
            from_command: ``credential_default_source`` is ``credential_cmd``: exchange what the command prints, unless
                the key is a JWT itself.
        """
        self._exchanging = exchanging and self._config.has_credential
        command = self._config.credential_command
        forced = from_command and self._config.credential_provider is None
        if self._exchanging and forced and command and not tokens.is_jwt(self._credential or ""):
            self._source, self._credential = command_source(command), None
        self.fixed = self.fixed and not self._exchanging

    async def current(self, *, raw: bool = False) -> str | None:
        """Return what the next request carries; None where this server needs nothing.

        Args:
            raw: the credential itself, for the exchange.

        Raises:
            CredentialsError: there is no usable credential.
            TinkexError: the exchange failed, and no token is left that still lives.
        """
        credential = await self._own()
        if raw or not self._exchanging:
            return credential
        return await self._renewed()

    async def replacement(self, refused: str | None, challenge: str, *, raw: bool = False) -> str | None:
        """Return another credential for a request that was answered 401, or None where that answer is final.

        Args:
            refused: what the request carried.
            challenge: its ``WWW-Authenticate``.
            raw: the request was the exchange.
        """
        found: str | None
        try:
            if self._exchanging and not raw:
                if 'error="invalid_token"' not in challenge:
                    return None
                if self._token is not None and self._token.text == refused:
                    self._token = None  # concurrent refusals share one exchange
                found = await self._renewed()
            elif self._source is not None:
                found = await self._own(not_this=refused)
            else:
                return None
        except TinkexError as error:
            _log.warning("credential.not_replaced", error=str(error))
            return None
        if found is None or found == refused:
            return None
        self._publish("refused")
        return found

    def forget(self) -> None:
        """Let go of what was kept out of logs; for when the service ends."""
        while self._hidden:
            self._hidden.pop()()

    async def _own(self, not_this: str | None = None) -> str | None:
        if self._source is None:
            self._refuse_expired()
            return self._credential
        if not self._wanting(not_this) or (self._credential not in (None, not_this) and self._asking.locked()):
            return self._credential
        async with self._asking:
            if self._wanting(not_this):
                await self._ask()
        return self._credential

    def _wanting(self, not_this: str | None) -> bool:
        if self._credential is None or self._credential == not_this:
            return True
        return self._changing and self._system.loop.time() - self._asked_at >= _PROVIDER_FRESH

    async def _ask(self) -> None:
        assert self._source is not None
        try:
            found = await self._source()
        except CredentialsError as error:
            if self._credential is None:
                raise
            _log.warning("credential.not_renewed", error=str(error))
            found = self._credential
        self._asked_at = self._system.loop.time()
        if found != self._credential:
            self._hidden.append(hide(found))
            if self._credential is not None:
                self._token = None  # it was given for the credential before
                self._publish("rotated")
            self._credential = found
        self._refuse_expired()

    async def _renewed(self) -> str:
        due = tokens.what_to_do(self._token, self._system.loop.time())
        if self._token is not None and (due == "use" or (due == "renew" and self._renewing.locked())):
            return self._token.text
        async with self._renewing:
            due = tokens.what_to_do(self._token, self._system.loop.time())
            if due != "use":
                await self._renew(self._token, early=due == "renew")
            assert self._token is not None
            return self._token.text

    async def _renew(self, old: tokens.Token | None, *, early: bool) -> None:
        try:
            text = await self._exchange(NO_RETRY if early else _FIRST_EXCHANGE)
        except TinkexError as error:
            now = self._system.loop.time()
            alive = old is not None and old.expires_at > now
            if not alive or (isinstance(error, AuthenticationError) and not early):
                raise
            assert old is not None
            tokens.failed(old, now)
            _log.warning("credential.not_renewed", error=str(error), seconds_left=round(old.expires_at - now))
            return
        self._hidden.append(hide(text))
        self._token = tokens.received(text, self._system.loop.time(), self._system.rng.random())
        if old is not None:
            self._publish("renewed")

    def _refuse_expired(self) -> None:
        if self._credential is None or not tokens.is_jwt(self._credential):
            return
        end = tokens.claims(self._credential).get("exp")
        if isinstance(end, int | float) and end <= datetime.datetime.now(datetime.UTC).timestamp():
            raise CredentialsError(
                "The credential is a JWT that has expired. Get a new one: set TINKER_API_KEY to an API key (tml-...), "
                "or let a credential command or provider make one."
            )

    def _publish(self, why: str) -> None:
        _log.info("credential.replaced", why=why)
        if self._system.events.active:
            self._system.events.publish(CredentialReplaced(why, self._system.loop.time()))
