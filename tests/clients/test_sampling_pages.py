"""The fragments of the pages about sampling run, in the order in which they stand, against a server that counts."""

from __future__ import annotations

import ast
import asyncio
import inspect
import random
import re
import types
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tinkex_actors import ModelInput, SamplingParams, ServiceClient
from tinkex_actors.testing import settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.types import SampleStreamChunk
from tinkex_actors.wire.exchange import Request
from tinkex_actors.wire.streams import STREAM_END, encode_chunk

PAGES = Path(__file__).resolve().parents[2] / "docs" / "pages" / "how-to"
FENCE = re.compile(r"^```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Server(ModelServer):
    """Streams too."""

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        yield encode_chunk(SampleStreamChunk(token="a", token_id=1, index=0)) + STREAM_END


async def run(fragment: str, names: dict[str, Any], where: str) -> None:
    code = compile(fragment, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = types.FunctionType(code, names)()
    if inspect.iscoroutine(result):
        await result


@pytest.mark.parametrize("page", ["sample-fast", "survive-rate-limits", "limit-spend"])
@virtual_time()
async def test_every_fragment_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(random.Random(0), Faults(latency=0.0, compute=0.0))
    fragments = FENCE.findall((PAGES / f"{page}.md").read_text(encoding="utf-8"))
    assert fragments
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        sampler, evaluation = [await service.create_sampling_client(base_model="m") for _ in range(2)]
        prompts = [ModelInput.from_ints([n]) for n in range(1, 5)]
        names: dict[str, Any] = {
            "service": service,
            "sampler": sampler,
            "evaluation": evaluation,
            "prompt": prompts[0],
            "prompts": prompts,
            "SamplingParams": SamplingParams,
            "ServiceClient": lambda: ServiceClient(base_url="http://127.0.0.1:1", transport=Server(random.Random(0))),
        }
        for fragment in fragments:
            await run(fragment, names, page)
        server.faults = Faults(latency=0.0, limited=1.0)
        last = sampler.sample(prompts[0])  # for hooks that a page has hung up
        await settle()
        server.faults = Faults(latency=0.0)
        async with asyncio.timeout(600.0):
            await last
    printed = capsys.readouterr().out

    assert {"sample-fast": "1 ", "survive-rate-limits": "rate limited (429)", "limit-spend": ""}[page] in printed
