"""Credentials of every kind, through everything that can go wrong, are found in requests and nowhere else.

Searched: every log line, every event, every error with its causes and attributes, every repr, ``explain()``,
``Config.show()``, and every batch of telemetry.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import pickle
import traceback
from typing import Any

import pytest

from tests.plugins.counting_server import datum
from tests.plugins.interposed import Interposed, json_answer
from tinkex_actors import APIConnectionError, BreakerConfig, Config, CredentialsError, ServiceClient
from tinkex_actors.actors.link.keyring import Keyring
from tinkex_actors.errors import TinkexError
from tinkex_actors.machines.tokens import Token
from tinkex_actors.testing import virtual_time
from tinkex_actors.wire.exchange import Request, Response

KEYS = ("tml-SECRETkey0", "tml-SECRETkey1", "local-SECRETkey-of-no-known-shape")
JWT = (
    "eyJ" + base64.urlsafe_b64encode(b'hbGciOi"SECRET"').decode().rstrip("=") + ".eyJpYXQiOjUsImV4cCI6MTAwNX0.SECRETsig"
)
OTHERS = {
    "proxy": "http://SECRETuser:SECRETpass@proxy.example:3128",
    "proxy_headers": {"X-Anything": "SECRETproxyheader"},
    "cf_access_client_secret": "SECRETcloudflare",
    "default_headers": {"X-My-Token": "SECRETheader"},
}


class Echoing(Interposed):
    """A server that repeats in its failures what it was sent, and refuses one key after the other."""

    def __init__(self, exchanging: bool) -> None:
        super().__init__(self.echo)
        self.exchanging = exchanging
        self.refused = {KEYS[0]}
        self.turns = 0
        self.calm = False

    def echo(self, request: Request) -> Response | None:
        if "client/config" in request.path:
            return json_answer({"pjwt_auth_enabled": self.exchanging})
        if "auth/token" in request.path:
            return json_answer({"jwt": JWT})
        said = f"headers were {request.headers} and the key {request.headers.get('X-API-Key')}"
        if request.headers.get("X-API-Key") in self.refused:
            return json_answer({"detail": said}, 401, www_authenticate='Bearer error="invalid_token"')
        self.turns += 1
        if self.calm or self.turns % 3 == 0 or "telemetry" in request.path:
            return None
        if self.turns % 3 == 1:
            raise APIConnectionError("nobody there")
        return json_answer({"detail": said}, 503, x_deprecation_note=f"old: {said}", retry_after="0.1")


def everything(error: BaseException) -> str:
    """All that a program can see of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)) + repr(pickle.dumps(error))


@pytest.mark.parametrize("exchanging", [False, True])
@virtual_time()
async def test_no_credential_is_seen_anywhere(exchanging: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = Echoing(exchanging)
    keys = iter((*KEYS, KEYS[2], KEYS[2], KEYS[2]))
    config = Config(
        base_url="http://SECRETuser:SECRETpass@127.0.0.1:1",
        credential_provider=lambda: next(keys, KEYS[2]),
        breaker=BreakerConfig(failure_threshold=50),
        coalesce=True,
        last_good_max_age=60.0,
        dump_headers=True,
        **OTHERS,  # type: ignore[arg-type]
    )
    seen: list[str] = [repr(config), config.show()]
    events: list[Any] = []
    async with ServiceClient(config=config, transport=server) as service:
        service.system.events.subscribe(events.append)
        training = await service.create_lora_training_client("m")
        await training.forward([datum()], "cross_entropy")
        for key in (KEYS[1], KEYS[2]):
            server.refused.add(key)
            asked = [service.get_server_capabilities(), training.save_state("x")]
            seen += [str(service.explain()), repr(service), repr(training), *map(repr, asked)]
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            seen += [everything(outcome) for outcome in outcomes if isinstance(outcome, BaseException)]
        with service.telemetry.capture():
            service.telemetry.log("mine", {"headers": {"X-API-Key": KEYS[2]}, "text": f"key {KEYS[1]} {JWT}"})
        # One of no known shape is known once it was in use.
        known = (*KEYS[:2], JWT) if exchanging else (*KEYS, JWT)
        service.telemetry.log_exception(TinkexError(f"with {' '.join(known)}"))
        server.calm, server.refused = True, set()
        await asyncio.sleep(120.0)
        seen.append(str(service.explain()))

    carried = " ".join(str(request.headers) for request in server.requests)
    wanted = {KEYS[0], "SECRETcloudflare", "SECRETheader", *((JWT,) if exchanging else KEYS[1:])}
    assert all(secret in carried for secret in wanted), "the test shows nothing if they were not in use"
    seen += [record.getMessage() + repr(record.__dict__) for record in caplog.records]
    seen += [repr(event) for event in events]
    telemetry = [request.body.decode() for request in server.to("telemetry")]
    assert telemetry
    assert caplog.records
    assert events
    for text in (*seen, *telemetry, *map(repr, server.requests)):
        assert "SECRET" not in text, text[max(0, text.index("SECRET") - 200) : text.index("SECRET") + 60]


def test_what_holds_a_credential_shows_none() -> None:
    assert JWT not in repr(Token(JWT, 1.0, 1.0))
    assert "__repr__" not in Keyring.__dict__, "the default one names the class alone"


@virtual_time()
async def test_a_source_that_fails_with_the_key_in_its_words_is_not_quoted() -> None:
    def provide() -> str:
        raise ValueError("tml-SECRET was not accepted")

    with pytest.raises(CredentialsError) as caught:
        async with Interposed().service(credential_provider=provide):
            pass

    assert "SECRET" not in str(caught.value)
