"""What is lost and repeated under the same storms, by client: ``python -m tests.bench.failure_model [--write]``.

Everything runs in virtual time from seeds, so the numbers are the same on every machine, except those of the official
SDK: it runs over HTTP (``tests.bench.official_storms``), takes ten minutes, and is measured with ``--official``.
``--write`` puts the table into docs/pages/explanation/failure-model.md.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tests.bench import official_storms
from tests.plugins.counting_server import datum
from tests.plugins.training_storm import (
    STEPS,
    Call,
    Ours,
    Storm,
    Verdict,
    blow,
    draw_storm,
    in_doubt,
    outcome,
    run_storm,
)
from tinkex_actors import AdamParams, APIConnectionError, APIStatusError, RequestFailedError
from tinkex_actors.testing import run_virtual
from tinkex_actors.testing.model_server import ModelServer
from tinkex_actors.types import ForwardBackwardInput, ForwardBackwardRequest, OptimStepRequest, SaveWeightsRequest
from tinkex_actors.wire.answers import Failed, Ready
from tinkex_actors.wire.client import decode_poll, decode_response, encode_request, poll_request
from tinkex_actors.wire.dialect import HOSTED
from tinkex_actors.wire.routes import ROUTES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pages" / "explanation" / "failure-model.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
SEEDS = 200

_ATTEMPTS = 10


class Naive:
    """A loop that makes each call again until it succeeds, at most ten times, and awaits it before the next.

    Args:
        same_number: send a request again under its number until the server has taken it, and ask again for its result
            until it comes or is gone, as the official client does inside each call; only then make the call again.
            Otherwise each attempt is a call of its own.
    """

    def __init__(self, *, same_number: bool) -> None:
        self._same_number = same_number
        self._numbers = itertools.count(1)

    async def __call__(self, server: ModelServer, storm: Storm) -> tuple[str, list[Call]]:
        """Run the program; a call that fails for good ends it."""
        server.faults = storm.faults
        # In its favour: a number that never comes stops nobody for longer than a minute.
        server.gap_after = 60.0
        weather = asyncio.get_running_loop().create_task(blow(server, storm))
        calls: list[Call] = []
        for step in range(STEPS):
            batch = ForwardBackwardInput(data=[datum() for _ in range(4)], loss_fn="cross_entropy")
            plan: list[tuple[str, str, Any]] = [
                (
                    "forward_backward",
                    "forward_backward",
                    ForwardBackwardRequest(forward_backward_input=batch, model_id="run"),
                ),
                ("optim_step", "optim_step", OptimStepRequest(model_id="run", adam_params=AdamParams())),
            ]
            if step % 2:
                plan.append(("save_state", "save_weights", SaveWeightsRequest(model_id="run", path=f"step-{step}")))
            for operation, route, message in plan:
                used: list[int] = []
                error = await outcome(self._insist(server, route, message, used))
                calls.append(Call(operation, tuple(used), 1, error))
                if error is not None:
                    weather.cancel()
                    return "run", calls
        weather.cancel()
        return "run", calls

    async def _insist(self, server: ModelServer, route: str, message: Any, used: list[int]) -> None:
        taken = True
        for attempt in itertools.count():
            if taken or not self._same_number:
                used.append(next(self._numbers))
                taken = False
            try:
                promise = await self._post(server, route, msgspec.structs.replace(message, seq_id=used[-1]))
                taken = True
                await self._poll(server, route, promise.request_id)
                return
            except (APIConnectionError, APIStatusError):
                if attempt + 1 == _ATTEMPTS:
                    raise
                await asyncio.sleep(min(2.0**attempt, 30.0))

    async def _post(self, server: ModelServer, name: str, message: Any) -> Any:
        route = ROUTES[name]
        return decode_response(route, await server.send(encode_request(route, message, HOSTED)))

    async def _poll(self, server: ModelServer, name: str, request_id: str) -> None:
        for iteration in itertools.count():
            request = poll_request(request_id, ROUTES[name], HOSTED, iteration=iteration, allow_metadata_only=False)
            try:
                answer = decode_poll(ROUTES[name], await server.send(request), HOSTED)
            except (APIConnectionError, APIStatusError) as error:
                gone = isinstance(error, APIStatusError) and error.status_code == 410
                if gone or not self._same_number:
                    raise
                await asyncio.sleep(1.0)
                continue
            if isinstance(answer, Ready):
                return
            if isinstance(answer, Failed):
                raise RequestFailedError(answer.error, request_id=request_id)


def naive_doubt(error: BaseException) -> bool:
    """Whether a plain error leaves open what happened; in its favour: no answer, 404, 408, 410 and 5xx count."""
    if isinstance(error, APIStatusError):
        return error.status_code in (404, 408, 410) or error.status_code >= 500
    return isinstance(error, APIConnectionError)


CONTENDERS: dict[str, tuple[Callable[[random.Random], Any], Callable[[BaseException], bool]]] = {
    "tinkex_actors": (Ours, in_doubt),
    "loop of plain retries": (lambda _: Naive(same_number=False), naive_doubt),
    "loop over calls that retry their requests": (lambda _: Naive(same_number=True), naive_doubt),
}


def measure(name: str, seeds: int) -> dict[str, int]:
    """Run one contender under every storm; returns sums over the runs."""
    make, doubt = CONTENDERS[name]
    total = dict.fromkeys(("runs", "flawless", *Verdict.__struct_fields__), 0)
    for seed in range(seeds):
        rng = random.Random(seed)
        # The storm is drawn first, so that each contender has the same ones.
        storm = draw_storm(rng)
        verdict = run_virtual(run_storm(rng, storm, make(rng), doubt), seed=seed)
        total["runs"] += 1
        total["flawless"] += verdict.flawless
        for field in Verdict.__struct_fields__:
            total[field] += getattr(verdict, field)
    return total


ROWS = {
    "flawless": "runs in which all was applied once, in order, or an error said where that is in doubt",
    "repeated": "requests applied more often than called",
    "silent": "requests applied although their error says they were not",
    "empty_steps": "optimizer steps applied without their whole gradient",
    "lost": "calls that succeeded and were not applied",
    "disordered": "requests applied out of order",
    "unknown": "calls whose error says that nobody knows",
    "failed": "calls that failed, those included",
    "calls": "calls made",
}


def table(results: dict[str, dict[str, int]]) -> str:
    """Return the results as a Markdown table."""
    runs = next(iter(results.values()))["runs"]
    lines = [f"| of {runs} runs | {' | '.join(results)} |", "|---|" + "---|" * len(results)]
    lines += [
        f"| {words} | {' | '.join(str(one[field]) for one in results.values())} |" for field, words in ROWS.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the page where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    parser.add_argument("--official", action="store_true", help="the official SDK, too, where it is installed")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="storms for each client")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    results = {name: measure(name, options.seeds) for name in CONTENDERS}
    if options.official and official_storms.installed():
        results[official_storms.NAME] = official_storms.measure(options.seeds)
    text = table(results)
    sys.stdout.write(text + "\n")
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        head, tail = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
