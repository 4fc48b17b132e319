"""The program of the storms, run by the official SDK in a process that ``tests.bench.official_storms`` starts.

For each line on its standard input, ``{"url": ..., "chunk_len": ..., "steps": ..., "patience": ...}``, it creates a
model, says ``ready``, waits for a line, trains, and prints how each call ended. Its clock runs ``SPEED`` times as fast
as the world's, and so do the SDK's pauses: they are what takes the time.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import selectors
import sys
import time
import warnings
from typing import Any

SPEED = 20.0

_monotonic, _sleep, _time = time.monotonic, time.sleep, time.time
_begun = _time()


class _Selector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> Any:
        return super().select(None if timeout is None else timeout / SPEED)


class FastLoop(asyncio.SelectorEventLoop):
    """A loop whose clock is fast."""

    def __init__(self) -> None:
        super().__init__(_Selector())

    def time(self) -> float:
        """Seconds, ``SPEED`` of them in one of the world's."""
        return _monotonic() * SPEED


class _Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return FastLoop()


def _hasten() -> None:
    """Before the SDK is imported: whatever it reads of the time, and wherever it waits."""
    time.monotonic = lambda: _monotonic() * SPEED
    time.time = lambda: _begun + (_time() - _begun) * SPEED
    time.sleep = lambda seconds: _sleep(seconds / SPEED)
    asyncio.set_event_loop_policy(_Policy())


def _told(error: BaseException) -> dict[str, Any]:
    cause: BaseException | None = error
    status = None
    while cause is not None and status is None:
        status = getattr(cause, "status_code", None)
        cause = cause.__cause__
    return {"kind": type(error).__name__, "status": status, "text": str(error)[:200]}


def _run(tinker: Any, asked: dict[str, Any]) -> list[dict[str, Any]]:
    types = tinker.types
    service = tinker.ServiceClient(base_url=asked["url"], api_key="tml-bench")
    training = service.create_lora_training_client(base_model="m")
    print("ready", flush=True)
    sys.stdin.readline()
    datum = types.Datum(
        model_input=types.ModelInput.from_ints([0, 1, 2, 3]),
        loss_fn_inputs={"target_tokens": [0, 1, 2, 3], "weights": [1.0] * 4},
    )
    parts = -(-4 // asked["chunk_len"])
    calls: list[tuple[str, int, Any]] = []

    def call(operation: str, count: int, method: Any, *arguments: Any) -> None:
        try:
            calls.append((operation, count, method(*arguments)))
        except Exception as error:
            calls.append((operation, count, error))

    for step in range(asked["steps"]):
        call("forward_backward", parts, training.forward_backward, [datum] * 4, "cross_entropy")
        call("optim_step", 1, training.optim_step, types.AdamParams())
        if step % 2:
            call("save_state", 1, training.save_state, f"step-{step}")
    number, ended = 1, []
    end = _monotonic() + asked["patience"] / SPEED
    for operation, count, future in calls:
        found: dict[str, Any] | None = None
        try:
            if isinstance(future, Exception):
                raise future
            future.result(max(0.0, end - _monotonic()))
        except Exception as error:
            found = _told(error)
        ended.append({"operation": operation, "numbers": list(range(number, number + count)), "error": found})
        number += count
    service.holder.close()
    return ended


def main() -> None:
    """Answer line by line."""
    warnings.simplefilter("ignore")
    _hasten()
    tinker = importlib.import_module("tinker")
    for line in sys.stdin:
        print(json.dumps(_run(tinker, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
