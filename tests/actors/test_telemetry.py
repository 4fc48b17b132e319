"""Telemetry loses nothing on a clean end, shows no secret, and is never in the way."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import numpy as np
import pytest

from tinkex_actors import ServiceClient
from tinkex_actors.testing import virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.server import encode_error

KEY = "tml-very-secret"


class Listening(ModelServer):
    """A counting server that keeps the events it was told, or knows no telemetry at all."""

    def __init__(self, known: bool = True) -> None:
        super().__init__(random.Random(0), Faults(latency=0.0))
        self.known = known
        self.bodies: list[bytes] = []

    async def send(self, request: Request) -> Response:
        if request.path.endswith("/telemetry"):
            self.bodies.append(request.body)
            if not self.known:
                return encode_error(404, "no such endpoint")
        return await super().send(request)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for body in self.bodies for event in json.loads(body)["events"]]


def a_service(server: Listening) -> ServiceClient:
    return ServiceClient(base_url="http://127.0.0.1:1", transport=server, api_key=KEY)


@virtual_time()
async def test_a_clean_end_sends_everything_in_order() -> None:
    server = Listening()
    async with a_service(server) as service:
        for number in range(250):
            assert service.telemetry.log("mine", {"number": number})

    assert [event["event"] for event in server.events] == ["SESSION_START", *["GENERIC_EVENT"] * 250, "SESSION_END"]
    assert [event["event_session_index"] for event in server.events] == list(range(252))
    assert [len(json.loads(body)["events"]) for body in server.bodies] == [100, 100, 52]


@virtual_time()
async def test_an_event_of_anything_is_sent_and_takes_no_other_with_it() -> None:
    ring: list[object] = []
    ring.append(ring)
    server = Listening()
    async with a_service(server) as service:
        assert service.telemetry.log("odd", {"loss": np.float32(0.5), "where": {1, 2}, "what": object})
        assert service.telemetry.log("endless", {"ring": ring})
        assert service.telemetry.log("plain", {"loss": 0.25})

    sent = {event["event_name"]: event["event_data"] for event in server.events if event["event"] == "GENERIC_EVENT"}
    assert sent["odd"]["loss"] == "0.5"
    assert sent["endless"] == {"ring": ["..."]}
    assert sent["plain"] == {"loss": 0.25}


@virtual_time()
async def test_the_key_is_cut_out_of_everything() -> None:
    server = Listening()
    async with a_service(server) as service:
        service.telemetry.log("mine", {"headers": {"X-API-Key": KEY}, "all": [KEY]})
        with pytest.raises(ValueError, match="tml-"), service.telemetry.capture():
            raise ValueError(f"the key {KEY} is not mine")

    assert len(server.events) == 4
    assert KEY.encode() not in b"".join(server.bodies)
    assert b"the key *** is not mine" in b"".join(server.bodies)


@virtual_time()
async def test_a_server_without_telemetry_is_told_once_and_not_waited_for() -> None:
    server = Listening(known=False)
    loop = asyncio.get_running_loop()
    async with a_service(server) as service:
        await asyncio.sleep(15.0)
        assert not service.telemetry.log("mine")
        assert await service.telemetry.wait_until_drained()
        began = loop.time()

    assert loop.time() - began < 1.0
    assert len(server.bodies) == 1


@virtual_time()
async def test_a_short_service_on_a_server_without_telemetry_ends_at_once() -> None:
    server = Listening(known=False)
    loop = asyncio.get_running_loop()
    async with a_service(server):
        began = loop.time()

    assert loop.time() - began < 1.0
