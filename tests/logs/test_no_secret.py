"""A service's whole life, on a server that repeats every header it is sent: the key is in no line and in no event."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.plugins.counting_server import datum
from tinkex_actors import AdamParams, APIConnectionError, Config, ModelInput, ServiceClient, TinkexError
from tinkex_actors.testing import run_virtual
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.server import encode_error

KEYS = {
    "an API key": "tml-very-secret-key_01",
    "a JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ0aW5rZXgifQ.c2lnbmF0dXJlLW9mLWl0",
    "a key of any shape": "correct-horse-battery-staple",
}


class Parrot(ModelServer):
    """Repeats what it was sent, in answers, in promises and in broken connections; telemetry is away for a while."""

    def __init__(self, seed: int) -> None:
        super().__init__(random.Random(seed), Faults(latency=0.01, compute=0.1))
        self.told: list[bytes] = []
        self.heard_key = False
        self.away = True

    async def send(self, request: Request) -> Response:
        words = f"you sent {request.headers}"
        self.heard_key = self.heard_key or any(key in words for key in KEYS.values())
        self.fail_with = (words, "server") if self.rng.random() < 0.3 else None
        if request.path.endswith("/telemetry"):
            self.told.append(request.body)
            if self.away:
                return encode_error(503, words)
        elif self.rng.random() < 0.2:
            return encode_error(self.rng.choice([400, 404, 429, 500, 503]), words)
        elif self.rng.random() < 0.1:
            raise APIConnectionError(f"broken while {words}")
        return await super().send(request)


async def a_life(server: Parrot, key: str, state: Path) -> str:
    config = Config.from_environment(base_url="http://127.0.0.1:1", api_key=key, state_dir=state, log="debug")
    service = ServiceClient(config=config, transport=server)
    shown = [repr(config), repr(service), config.show()]
    for _ in range(12):
        try:
            training = await service.create_lora_training_client("m")
            pending = [training.forward_backward([datum()], "cross_entropy"), training.optim_step(AdamParams())]
            sampler = await service.create_sampling_client(base_model="m")
            pending.append(sampler.sample(ModelInput.from_ints([1, 2])))
            shown += [str(service.explain()), repr(pending), repr(training), repr(sampler)]
            await asyncio.gather(*pending)
        except TinkexError as error:
            service.telemetry.log_exception(error)
            service.telemetry.log("mine", {"error": error, "headers": {"X-API-Key": key}, "where": [f"<{key}>"]})
            shown.append(repr(service.telemetry.statistics()))
    await asyncio.sleep(60.0)
    server.away = False
    service.telemetry.log("at last", {"config": config, "key": key})
    await asyncio.sleep(60.0)
    await service.close()
    return "\n".join(shown)


@pytest.fixture(autouse=True)
def _levels_as_they_were() -> Iterator[None]:
    branch = logging.getLogger("tinkex_actors")
    level, handlers = branch.level, list(branch.handlers)
    yield
    branch.setLevel(level)
    branch.handlers[:] = handlers
    structlog.reset_defaults()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("configured", [False, True], ids=["logging", "structlog"])
def test_the_key_is_nowhere(
    kind: str, seed: int, configured: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = KEYS[kind]
    server = Parrot(seed)
    lines: list[Any] = []
    structlog.reset_defaults()
    if configured:
        structlog.configure(processors=[structlog.testing.LogCapture()])
        lines = structlog.get_config()["processors"][0].entries
    shown = run_virtual(a_life(server, key, tmp_path), seed=seed)

    logged = repr(lines) if configured else caplog.text
    assert server.heard_key
    assert "request.retry" in logged
    assert "you sent" in logged
    sent = b"\n".join(server.told).decode()
    kept = "\n".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    names = {event["event"] for body in server.told for event in json.loads(body)["events"]}
    assert names >= {"SESSION_START", "GENERIC_EVENT", "SESSION_END"}
    found = [
        where
        for where, text in {"logs": logged, "telemetry": sent, "spool": kept, "reprs": shown}.items()
        if key.rpartition(".")[2] in text
    ]
    assert found == []


def test_the_search_would_find_it(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("tinkex_actors.http").error("said by somebody else: %s", KEYS["an API key"])
    assert KEYS["an API key"] in caplog.text
