"""A training program under everything that can go wrong, and the verdict on what the server applied.

The program is written once and run by whatever client is under test (``Trainee``), so that what one of them guarantees
and another does not is seen on the same storms.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from tests.plugins.counting_server import datum
from tinkex_actors import AdamParams, Config, GoneError, NotFoundError, OutcomeUnknownError, ServiceClient, TinkexError
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.types import ClientConfigResponse

STEPS = 4
"""Optimizer steps of the program."""


class Storm(msgspec.Struct, frozen=True):
    """What goes wrong in one run.

    Attributes:
        faults: by chance, while the program trains.
        restarts: instants at which the server restarts, whether it keeps its state, and for how long it is away.
        kills: instants at which an actor is killed (by the trainee, if it has any).
        chunk_len: examples in a request at most; the batches have four.
    """

    faults: Faults
    restarts: tuple[tuple[float, bool, float], ...] = ()
    kills: tuple[float, ...] = ()
    chunk_len: int = 1024


def draw_storm(rng: random.Random, *, forgetful: bool = True) -> Storm:
    """Draw a storm: each fault is absent in half of them; one in three restarts the server.

    ``forgetful`` lets one in twelve restart without state, and one in four forget promises: what nothing survives.
    """

    def rate(most: float) -> float:
        return rng.random() * most if rng.random() < 0.5 else 0.0

    faults = Faults(
        lost_request=rate(0.2),
        lost_answer=rate(0.2),
        duplicated=rate(0.3),
        busy=rate(0.15),
        unsure=rate(0.2),
        conflict=rate(0.1),
        limited=rate(0.15),
        unpaid=rate(0.1),
        forgotten=rate(0.05) if forgetful and rng.random() < 0.5 else 0.0,
        latency=rng.choice((0.01, 0.3)),
        compute=rng.choice((0.1, 2.0)),
    )
    restarts = ()
    if rng.random() < 1 / 3:
        keeps = not forgetful or rng.random() < 0.75
        restarts = ((rng.random() * 8.0, keeps, rng.random() * 20.0),)
    # Two seconds apart: at most three in five seconds, which the supervisors allow.
    kills = tuple(2.0 * n + rng.random() for n in range(rng.choice((0, 0, 2, 5))))
    chunk_len = rng.choice((1024, 2))
    if forgetful:
        faults = msgspec.structs.replace(faults, refused=rate(0.05))
    return Storm(faults, restarts, kills, chunk_len)


class Call(msgspec.Struct):
    """One call of the program, as its caller saw it end.

    Attributes:
        operation: ``forward_backward``, ``optim_step`` or ``save_state``.
        numbers: every wire number that was used for it.
        parts: how many requests it consists of.
        error: what it raised, or None.
    """

    operation: str
    numbers: tuple[int, ...]
    parts: int
    error: BaseException | None = None


class Trainee(Protocol):
    """A client under test: runs the program, and says how each call ended."""

    async def __call__(self, server: ModelServer, storm: Storm) -> tuple[str, list[Call]]:
        """Returns the model's id and the calls, in order."""


class Verdict(msgspec.Struct):
    """What a run did to the model, by wire number.

    Attributes:
        repeated: requests that were applied more often than their calls were made.
        disordered: requests that were applied after one that was called later.
        lost: calls that ended well, and were not applied.
        silent: calls that raised an error which says that they were not applied, and were.
        empty_steps: optimizer steps that were applied without the whole of their gradient, unknown to the caller.
        unknown: calls that raised an error which says that nobody knows.
        failed: calls that raised any error.
        calls: how many there were.
    """

    repeated: int = 0
    disordered: int = 0
    lost: int = 0
    silent: int = 0
    empty_steps: int = 0
    unknown: int = 0
    failed: int = 0
    calls: int = 0

    @property
    def flawless(self) -> bool:
        """Whether what was submitted was applied once and in order, or the caller knows where that is in doubt."""
        return not (self.repeated or self.disordered or self.lost or self.silent or self.empty_steps)


Doubt = Callable[[BaseException], bool]


async def blow(server: ModelServer, storm: Storm) -> None:
    """Restart the server when the storm says so."""
    begun = asyncio.get_running_loop().time()
    for at, keep_state, down in storm.restarts:
        await asyncio.sleep(begun + at - asyncio.get_running_loop().time())
        server.restart(down=down, keep_state=keep_state)


async def run_storm(
    rng: random.Random, storm: Storm, trainee: Trainee, doubt: Doubt, *, numbered: bool = True
) -> Verdict:
    """Run the program once.

    Args:
        rng: chance, of the server's faults too.
        storm: what goes wrong.
        trainee: the client.
        doubt: knows the errors that say that nobody knows.
        numbered: the server orders by number (``ModelServer.numbered``).
    """
    server = ModelServer(rng)
    server.numbered = numbered
    server.flags = ClientConfigResponse(fwdbwd_max_chunk_len=storm.chunk_len)
    model_id, calls = await trainee(server, storm)
    return judge(server.applied.get(model_id, []), calls, doubt)


def judge(applied: list[tuple[int, str]], calls: list[Call], doubt: Doubt) -> Verdict:
    """Compare what the server applied with what the caller was told."""
    verdict = Verdict(calls=len(calls))
    numbers = [number for number, _ in applied]
    verdict.disordered = sum(later < earlier for earlier, later in itertools.pairwise(numbers))
    done = [number for number, name in applied if name != "forward"]
    gradient_known = True
    for call in calls:
        times = sum(number in call.numbers for number in done)
        verdict.repeated += max(0, times - call.parts)
        doubtful = call.error is not None and doubt(call.error)
        verdict.failed += call.error is not None
        verdict.unknown += doubtful
        if call.error is None:
            verdict.lost += times < call.parts
        elif not doubtful:
            # Of a call in several requests, some may have been taken before another was refused.
            verdict.silent += times > 0 and call.parts == 1
        if call.operation == "forward_backward":
            gradient_known = gradient_known and (call.error is None or doubtful)
        elif call.operation == "optim_step":
            verdict.empty_steps += times > 0 and not gradient_known
            gradient_known = True
    return verdict


async def outcome(awaitable: Awaitable[Any]) -> BaseException | None:
    """Wait for a call, and return what it raised."""
    try:
        await awaitable
    except TinkexError as error:
        return error
    return None


class Ours:
    """The training client, calling everything at once, its actors killed on the way."""

    def __init__(self, rng: random.Random, **options: Any) -> None:
        self._rng = rng
        self._config = Config(base_url="http://127.0.0.1:1", telemetry=False, **options)

    async def __call__(self, server: ModelServer, storm: Storm) -> tuple[str, list[Call]]:
        loop = asyncio.get_running_loop()
        async with ServiceClient(config=self._config, transport=server) as service:
            training = await service.create_lora_training_client("m")
            server.faults = storm.faults
            begun = loop.time()
            futures = []
            for step in range(STEPS):
                futures.append(training.forward_backward([datum() for _ in range(4)], "cross_entropy"))
                futures.append(training.optim_step(AdamParams()))
                if step % 2:
                    futures.append(training.save_state(f"step-{step}"))
            weather = loop.create_task(blow(server, storm))
            killing = loop.create_task(self._kill(service, begun, storm))
            calls = []
            for future in futures:
                error = await outcome(future)
                numbers = tuple(future.ids["seq_ids"])
                calls.append(Call(future.operation, numbers, len(numbers), error))
            killing.cancel()
            weather.cancel()
            server.faults = Faults()
            return training.model_id, calls

    async def _kill(self, service: ServiceClient, begun: float, storm: Storm) -> None:
        loop = asyncio.get_running_loop()
        for at in storm.kills:
            await asyncio.sleep(max(0.0, begun + at - loop.time()))
            core = service.system.whereis("/service/core")
            assert core is not None
            victims = [*core.children, *core.child("trainers").children]
            self._rng.choice(victims).kill()


def in_doubt(error: BaseException) -> bool:
    """Whether an error of ours says that nobody knows whether the call was applied.

    A model that the server has forgotten has taken with it whatever was applied to it: so do 404 and 410 say.
    """
    return isinstance(error, OutcomeUnknownError | GoneError | NotFoundError)
