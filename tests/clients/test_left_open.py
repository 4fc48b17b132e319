"""A program that never closes its service ends by itself, without a word and without a leak."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
from tinkex_actors import AdamParams, ModelInput, ServiceClient

async def main():
    service = ServiceClient(base_url=sys.argv[1])
    training = await service.create_lora_training_client("tiny", rank=4)
    sampler = await service.create_sampling_client(base_model="tiny")
    training.optim_step(AdamParams())
    sampler.sample(ModelInput.from_ints([1, 2, 3]))
    print("done")

asyncio.run(main())
"""
SERVED = """
import asyncio, sys, subprocess
from tinkex_actors.config import Config
from tinkex_actors.engine.transport import LocalTransport
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.transport.server import serve

async def main():
    async with ActorSystem() as system:
        transport = LocalTransport("tiny", system=system, config=Config.from_environment(base_url="local://tiny"))
        server = await serve(transport)
        program = await asyncio.create_subprocess_exec(sys.executable, "-W", "always", "-c", sys.argv[1], server.url)
        code = await program.wait()
        await server.close()
        await transport.close()
        return code

sys.exit(asyncio.run(main()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["in process", "over http"])
def test_a_service_left_open_ends_with_its_loop(way: str) -> None:
    command = ["-W", "always", "-c", PROGRAM, "local://tiny"] if way == "in process" else ["-c", SERVED, PROGRAM]

    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=50, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
