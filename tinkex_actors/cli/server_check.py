"""The part of ``doctor`` that talks to a server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import msgspec

from tinkex_actors.cli.doctor import Finding
from tinkex_actors.errors import TinkexError

if TYPE_CHECKING:
    from tinkex_actors import ServiceClient
    from tinkex_actors.config import Config
    from tinkex_actors.transport import Transport
    from tinkex_actors.wire.exchange import Request, Response

__all__ = ["server_findings"]

# A server's Date has whole seconds; from here on tokens and signed addresses may be refused.
_SKEW_SECONDS = 5.0
_SHOWN_MODELS = 6


class _Clocked:
    """A transport that compares the clocks on its way."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.skew: float | None = None
        self.quickest: float | None = None

    async def send(self, request: Request) -> Response:
        began = time.perf_counter()
        response = await self.inner.send(request)
        took = time.perf_counter() - began
        if self.quickest is None or took < self.quickest:
            self.quickest = took
            if text := response.headers.get("date"):
                try:
                    self.skew = parsedate_to_datetime(text).timestamp() - (time.time() - took / 2)
                except ValueError:
                    self.skew = None
        return response

    async def close(self) -> None:
        await self.inner.close()


async def server_findings(config: Config, *, probe: str | None) -> AsyncIterator[Finding]:
    """Open a session, look at what the server says and does, and finish the session.

    Args:
        config: names the server.
        probe: a base model for one pass and one sample; None for neither.
    """
    from tinkex_actors import ServiceClient
    from tinkex_actors.runtime import ActorSystem
    from tinkex_actors.transport import open_transport

    # Somebody waits for the report: what fails twice is told.
    quiet = msgspec.structs.replace(config, telemetry=False, max_retries=1)
    async with ActorSystem(name="doctor") as system:
        try:
            transport = _Clocked(open_transport(config.base_url, system=system, config=quiet))
            async with ServiceClient(
                config=quiet, system=system, transport=transport, display_name="tinkex-actors doctor"
            ) as service:
                yield Finding("session", "ok", f"{service.session_id} was opened, and is finished at the end")
                yield await _models(service)
                if probe is not None:
                    async for finding in _probe(service, probe):
                        yield finding
                for number, line in enumerate(service.server_dialect):
                    yield Finding("dialect", "note" if number else "ok", line)
                if probe is None:
                    yield Finding("dialect", "note", "encodings are found at the first training pass: --probe MODEL")
        except TinkexError as error:
            yield Finding("server", "bad", f"{type(error).__name__}: {error}")
            return
        yield _clock(transport)


async def _models(service: ServiceClient) -> Finding:
    try:
        answer = await service.get_server_capabilities()
    except TinkexError as error:
        return Finding("models", "note", f"not told: {error}")
    names = [model.model_name or "?" for model in answer.supported_models]
    more = f" and {len(names) - _SHOWN_MODELS} more" if len(names) > _SHOWN_MODELS else ""
    return Finding(
        "models", "ok" if names else "note", ", ".join(names[:_SHOWN_MODELS]) + more or "the server has none"
    )


async def _probe(service: ServiceClient, model: str) -> AsyncIterator[Finding]:
    from tinkex_actors import Datum, ModelInput, SamplingParams

    prompt = ModelInput.from_ints([1, 2])
    try:
        training = await service.create_lora_training_client(model, rank=1)
        pass_ = await training.forward(
            [Datum(model_input=prompt, loss_fn_inputs={"target_tokens": [2, 3]})], "cross_entropy"
        )
        yield Finding("training", "ok", f"one pass over two tokens gave {len(pass_.loss_fn_outputs)} result")
        await training.unload_model()
    except TinkexError as error:
        yield Finding("training", "bad", f"{type(error).__name__}: {error}")
    try:
        sampler = await service.create_sampling_client(base_model=model)
        answer = await sampler.sample(prompt, 1, SamplingParams(max_tokens=1), include_prompt_logprobs=True)
        scored = "with" if answer.prompt_logprobs is not None else "without"
        yield Finding("sampling", "ok", f"one token, {scored} scores of the prompt")
    except TinkexError as error:
        yield Finding("sampling", "bad", f"{type(error).__name__}: {error}")


def _clock(transport: _Clocked) -> Finding:
    if transport.quickest is None or transport.skew is None:
        return Finding("clock", "ok", "in this process, or the server does not tell the time")
    text = f"{abs(transport.skew):.1f} s {'behind' if transport.skew > 0 else 'ahead of'} the server"
    trip = f"quickest exchange {transport.quickest * 1e3:.0f} ms"
    if abs(transport.skew) < _SKEW_SECONDS:
        return Finding("clock", "ok", f"agrees with the server's; {trip}")
    return Finding("clock", "bad", f"this machine is {text}; {trip}. Set its clock: tokens may be refused.")
