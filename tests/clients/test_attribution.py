"""Every request made for a public method says which; those that the client makes for itself say nothing."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator

from tests.plugins.counting_server import datum
from tests.plugins.interposed import Interposed
from tinkex_actors import AdamParams, ModelInput, SamplingParams, ServiceClient, TrainingClient
from tinkex_actors.actors.attribution import attributed, calling, unattributed
from tinkex_actors.testing import virtual_time
from tinkex_actors.types import SampleStreamChunk
from tinkex_actors.wire.exchange import Request
from tinkex_actors.wire.streams import STREAM_END, encode_chunk

PROMPT = ModelInput.from_ints([1, 2, 3])


def said(server: Interposed) -> dict[str, set[str | None]]:
    """What the requests to each endpoint said."""
    found: dict[str, set[str | None]] = defaultdict(set)
    for request in server.requests:
        found[request.path.removeprefix("/api/v1/").partition("?")[0]].add(request.headers.get("x-sdk-method"))
        assert ("x-sdk-version" in request.headers) == ("x-sdk-method" in request.headers)
    return found


@virtual_time()
async def test_requests_and_their_polls_carry_the_outermost_method() -> None:
    server = Interposed()
    # Not entered: the first call starts the service, and what lives on is not that call's.
    service = server.service()
    training = await service.create_lora_training_client("m", rank=4)
    first = said(server)
    assert first["create_model"] == first["get_info"] == {"ServiceClient.create_lora_training_client"}
    assert first["retrieve_future"] == {"ServiceClient.create_lora_training_client"}
    assert first["create_session"] == first["client/config"] == {None}
    server.requests.clear()

    calls = [
        training.forward_backward([datum()], "cross_entropy"),
        training.optim_step(AdamParams()),
        training.save_weights_and_get_sampling_client(),
        service.get_server_capabilities(),
    ]
    await asyncio.gather(*calls)
    sampler = await training.create_sampling_client("tinker://run/sampler_weights/a")
    await asyncio.gather(
        sampler.sample(PROMPT, 1, SamplingParams(max_tokens=2)),
        service.create_rest_client().get_server_capabilities(),
    )
    await asyncio.sleep(60.0)

    found = said(server)
    assert found["forward_backward"] == {"TrainingClient.forward_backward"}
    assert found["optim_step"] == {"TrainingClient.optim_step"}
    assert found["save_weights_for_sampler"] == {"TrainingClient.save_weights_and_get_sampling_client"}
    assert found["create_sampling_session"] == {"TrainingClient.create_sampling_client"}
    assert found["asample"] == {"SamplingClient.sample"}
    assert found["get_server_capabilities"] == {
        "ServiceClient.get_server_capabilities",
        "RestClient.get_server_capabilities",
    }
    assert found["retrieve_future"] == {
        "TrainingClient.forward_backward",
        "TrainingClient.optim_step",
        "TrainingClient.save_weights_and_get_sampling_client",
        "SamplingClient.sample",
    }
    assert found["session_heartbeat"] == {None}
    await service.close()
    assert said(server)["telemetry"] == {None}


@virtual_time()
async def test_a_restarted_actor_still_knows_for_whom_it_works() -> None:
    server = Interposed()
    async with server.service() as service:
        training: TrainingClient = await service.create_lora_training_client("m", rank=4)
        server.requests.clear()
        step = training.optim_step(AdamParams())
        await asyncio.sleep(0.005)
        for name in ("poller", "courier"):
            actor = service.system.whereis(f"/service/core/{name}")
            assert actor is not None
            actor.kill()
        await step
        assert said(server)["retrieve_future"] == {"TrainingClient.optim_step"}


class Streamer(Interposed):
    """Streams two tokens."""

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        self.requests.append(request)
        yield encode_chunk(SampleStreamChunk(token="a", token_id=1, index=0)) + STREAM_END


@virtual_time()
async def test_a_stream_carries_its_method_and_what_is_asked_between_two_pieces_its_own() -> None:
    server = Streamer()
    async with server.service() as service:
        sampler = await service.create_sampling_client(base_model="m")
        server.requests.clear()
        async for _ in sampler.sample_stream(PROMPT):
            assert calling.get() is None
            await sampler.sample(PROMPT)
        found = said(server)

    assert found["stream_sample"] == {"SamplingClient.sample_stream"}
    assert found["asample"] == {"SamplingClient.sample"}


def test_only_public_methods_are_named_and_only_while_they_run() -> None:
    @attributed
    class Client:
        def outer(self) -> list[str | None]:
            """Its own words."""
            return [calling.get(), *self.inner(), *unattributed(self._own)]

        def inner(self) -> list[str | None]:
            return [calling.get()]

        def _own(self) -> list[str | None]:
            return [calling.get()]

    assert Client().outer() == ["Client.outer", "Client.outer", None]
    assert Client().inner() == ["Client.inner"]
    assert Client()._own() == [None]
    assert calling.get() is None
    assert Client.outer.__doc__ == "Its own words."
    assert ServiceClient.close.__name__ == "close"
