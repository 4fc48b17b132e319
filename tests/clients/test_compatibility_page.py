"""The table of ``docs/pages/reference/compatibility.md`` is what was measured against servers of every kind.

``make generate`` writes it anew (``WRITE_PAGES=1`` with this file); the test compares.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.plugins.every_server import SERVERS
from tinkex_actors import AdamParams, Config, Datum, ModelInput, SamplingParams, ServiceClient, UnsupportedByServerError
from tinkex_actors.engine.service.call import EngineOptions
from tinkex_actors.engine.transport import LocalTransport
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.wire.dialect import JSON
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.quirks import Quirks
from tinkex_actors.wire.server import match

PAGE = Path(__file__).resolve().parents[2] / "docs/pages/reference/compatibility.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
PROMPT = ModelInput.from_ints([5, 6, 7])
COLUMNS = (
    "server",
    "batches",
    "results",
    "forward",
    "metrics",
    "from a checkpoint",
    "samples",
    "sequence ids",
    "prompt scores",
    "a session joined",
    "refusals",
)


class Watching:
    """A transport that remembers what was answered, and to what. ``lent`` is not closed with its service."""

    def __init__(self, inner: LocalTransport, *, lent: bool = False) -> None:
        self.inner = inner
        self.lent = lent
        self.taken: list[tuple[str, Request, Response]] = []
        self.refused: Counter[int] = Counter()

    async def send(self, request: Request) -> Response:
        response = await self.inner.send(request)
        found = match(request)
        if response.status < 300 and found is not None:
            self.taken.append((found[0].name, request, response))
        elif response.status >= 400:
            self.refused[response.status] += 1
        return response

    async def close(self) -> None:
        if not self.lent:
            await self.inner.close()

    def last(self, *names: str) -> tuple[str, Request, Response]:
        """The last exchange of these routes that went well."""
        return next(entry for entry in reversed(self.taken) if entry[0] in names)


def encoding(headers: dict[str, str]) -> str:
    kind = next(value for name, value in headers.items() if name.lower() == "content-type")
    return "protobuf" if "protobuf" in kind else "JSON"


def body(request: Request) -> dict[str, Any]:
    return msgspec.json.decode(request.body, type=dict[str, Any])


async def measured(options: EngineOptions, store: Path) -> list[str]:
    """One row: the same few calls, and how each of them had to be made."""
    config = Config(base_url="local://tiny", engine_store=store, api_key="tml-any", telemetry=False)
    async with ActorSystem(name="engine") as system:
        server = Watching(LocalTransport("tiny", system=system, config=config, options=options))
        async with ServiceClient(config=config, transport=server) as service:
            try:
                row = await train(service, server)
            except UnsupportedByServerError as error:
                return [f"no {error.feature}", *["-"] * (len(COLUMNS) - 3), refusals(server)]
            row += await sample(service, server)
            row.append(await join(config, Watching(server.inner, lent=True), service.session_id))
    return [*row, refusals(server)]


async def train(service: ServiceClient, server: Watching) -> list[str]:
    datum = Datum(model_input=PROMPT, loss_fn_inputs={"target_tokens": [6, 7, 8], "weights": [1.0] * 3})
    training = await service.create_lora_training_client("tiny", rank=2, seed=1)
    passed = await training.forward_backward([datum], "cross_entropy")
    _, request, _ = server.last("forward_backward")
    _, _, answer = server.last("retrieve_future")
    batches, results = encoding(request.headers), encoding(answer.headers)
    await training.forward([datum], "cross_entropy")
    name, request, _ = server.last("forward", "forward_backward")
    forward = "its route" if name == "forward" else "a flag" if encoding(request.headers) == "protobuf" else "a key"
    await training.optim_step(AdamParams())
    saved = await training.save_state("point")
    await service.create_training_client_from_state(saved.path)
    loaded = body(server.last("load_weights")[1])
    return [
        batches,
        results,
        forward,
        "yes" if passed.metrics else "none",
        "one request" if "model_seq_id" in loaded else "create, load",
    ]


async def sample(service: ServiceClient, server: Watching) -> list[str]:
    sampler = await service.create_sampling_client(base_model="tiny")
    await sampler.sample(PROMPT, 1, SamplingParams(seed=1, stop=list(range(512))))
    given = "max_tokens" in body(server.last("asample")[1])["sampling_params"]
    answer = await sampler.sample(
        PROMPT, 1, SamplingParams(max_tokens=2, seed=1, stop="never"), include_prompt_logprobs=True
    )
    listed = isinstance(body(server.last("asample")[1])["sampling_params"]["stop"], list)
    assert answer.prompt_logprobs is not None
    assert [entry is None for entry in answer.prompt_logprobs] == [True, False, False]
    told = [*["stop in a list"] * listed, *["max_tokens added"] * given]
    named = bool(answer.sequences[0].sequence_id)
    return [", ".join(told) or "as given", "named" if named else "none", "n, the first empty"]


async def join(config: Config, server: Watching, session_id: str) -> str:
    async with ServiceClient(config=config, transport=server, session_id=session_id) as other:
        assert other.session_id == session_id
    return "checked" if any(name == "session_heartbeat" for name, *_ in server.taken) else "unchecked"


def refusals(server: Watching) -> str:
    return ", ".join(f"{count} x {status}" for status, count in sorted(server.refused.items())) or "none"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_table_says_what_was_measured(tmp_path: Path) -> None:
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    mute = EngineOptions(dialect=JSON, quirks=Quirks.named(["refuses_json"]))
    for number, (name, options) in enumerate({**SERVERS, "json, quirk refuses_json": mute}.items()):
        rows.append((name, *await measured(options, tmp_path / str(number))))
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    committed, _, tail = rest.partition(END)
    if os.environ.get("WRITE_PAGES"):
        PAGE.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}", encoding="utf-8")
        return
    assert committed.strip() == table.strip(), "Run `make generate`, look at what has changed, and commit it."
