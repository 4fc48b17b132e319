"""Back-pressure, queue pauses, stuck sessions, session polls and cancellations, as a program sees them."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.plugins.counting_server import counting
from tests.plugins.sampling_server import sampling
from tinkex_actors import Config, InputError, ModelInput, RetryConfig, SamplingParams, ServiceClient
from tinkex_actors.errors import APIStatusError, APITimeoutError, ConfigError, PermissionDeniedError
from tinkex_actors.events import BackoffWindowClosed, BackoffWindowOpened, SamplingQueuePaused, SamplingQueueResumed
from tinkex_actors.machines.admission.backoff import ADAPTIVE, PARITY
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.testing import settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer

PROMPT = ModelInput.from_ints([1, 2, 3])
QUICK = Faults(latency=0.0, compute=0.0)


@virtual_time()
async def test_the_window_is_told_once_when_it_opens_and_once_when_it_closes() -> None:
    service, server = counting(latency=0.0)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        told: list[object] = []
        stop = sampler.on_rate_limited(told.append)
        sampler.on_resumed(told.append)
        server.faults = Faults(limited=1.0, latency=0.0)
        waiting = [sampler.sample(PROMPT) for _ in range(30)]
        await settle()
        assert server.seen["asample"] == 30
        assert [type(event) for event in told] == [BackoffWindowOpened]
        assert sampler.statistics().waiting == 30
        assert "30 waiting" in str(waiting[0].explain())
        await asyncio.sleep(10.0)
        assert [type(event) for event in told] == [BackoffWindowOpened], "refused probes only make it longer"
        server.faults = QUICK
        await asyncio.gather(*waiting)
        assert [type(event) for event in told] == [BackoffWindowOpened, BackoffWindowClosed]
        assert isinstance(told[1], BackoffWindowClosed)
        assert told[1].seconds > 10.0
        stop()


@virtual_time()
async def test_services_of_one_system_share_the_window_where_server_and_credential_are_the_same() -> None:
    def service(key: str, **options: str) -> ServiceClient:
        server = ModelServer(random.Random(0), QUICK)
        return ServiceClient(
            config=Config(base_url="http://127.0.0.1:1", api_key=key, **options), transport=server, system=system
        )  # type: ignore[arg-type]

    async with ActorSystem() as system:
        one, two, other, official = service("a"), service("a"), service("b"), service("a", parity="official")
        async with one, two, other, official:
            windows = [each._use().dispatcher.admission.backoff for each in (one, two, other, official)]
            assert windows[0] is windows[1]
            assert len({id(window) for window in windows}) == 3
            assert [window.policy for window in windows] == [ADAPTIVE, ADAPTIVE, ADAPTIVE, PARITY]
            sampler, beside = [await each.create_sampling_client(base_model="m") for each in (one, two)]
            server = one._use().transport
            assert isinstance(server, ModelServer)
            server.faults = Faults(limited=1.0, latency=0.0)
            refused = sampler.sample(PROMPT)
            await settle()
            held = beside.sample(PROMPT)
            await settle()
            assert "in back-off" in str(held.explain())
            server.faults = QUICK
            await held
            await refused
        del windows
    assert len(system.shared) <= 2 * 3, "a window and its desks for each"


@pytest.mark.parametrize("parity", ["python", "official"])
@virtual_time()
async def test_what_waits_in_one_service_goes_as_soon_as_anothers_probe_was_taken(parity: str) -> None:
    def service(server: ModelServer) -> ServiceClient:
        config = Config(base_url="http://127.0.0.1:1", parity=parity)  # type: ignore[arg-type]
        return ServiceClient(config=config, transport=server, system=system)

    async with ActorSystem() as system:
        servers = [ModelServer(random.Random(0), QUICK) for _ in range(2)]
        async with service(servers[0]) as one, service(servers[1]) as two:
            probing, waiting = [await each.create_sampling_client(base_model="m") for each in (one, two)]
            servers[0].faults = Faults(latency=0.0, limited=1.0)
            refused = probing.sample(PROMPT)
            await settle()
            servers[0].faults = Faults(latency=2.0, compute=0.0)  # the probe takes a moment
            held = [waiting.sample(PROMPT) for _ in range(5)]
            ended: list[float] = []
            for future in (refused, *held):
                future.add_done_callback(lambda _: ended.append(system.loop.time()))
            await asyncio.gather(refused, *held)
            assert max(ended) - min(ended) < 3.0, "nobody waits for the patience that a lost probe is given"


@pytest.mark.parametrize("end", ["closed", "gave up"])
@virtual_time()
async def test_a_service_that_ends_takes_nothing_of_the_shared_window_along(end: str) -> None:
    def service(server: ModelServer) -> ServiceClient:
        config = Config(base_url="http://127.0.0.1:1", parity="official")
        return ServiceClient(config=config, transport=server, system=system)

    async with ActorSystem() as system:
        mine, theirs = [ModelServer(random.Random(0), QUICK) for _ in range(2)]
        async with service(theirs) as other:
            beside = await other.create_sampling_client(base_model="m")
            one = service(mine)
            sampler = await one.create_sampling_client(base_model="m")
            mine.faults = Faults(latency=1000.0)
            samples = [sampler.sample(PROMPT) for _ in range(600)]
            await settle()
            window = beside._core.dispatcher.admission.backoff
            assert window._posting == 400
            if end == "gave up":
                core = system.whereis("/service-2")
                assert core is not None
                core.kill()
                await settle()
                assert window._posting == 0
            mine.faults = QUICK
            await one.close()
            assert all(sample.done() and sample.peek() is not None for sample in samples)
            assert window._posting == 0
            theirs.faults = Faults(latency=0.0, limited=1.0)
            held = [beside.sample(PROMPT) for _ in range(5)]
            await settle()
            theirs.faults = QUICK
            began = system.loop.time()
            await asyncio.gather(*held)
            assert system.loop.time() - began < 5.0, "ten at once, and nobody else's"


@virtual_time()
async def test_a_paused_queue_holds_new_samples_back_and_is_told_at_most_once_a_minute() -> None:
    service, server = sampling(0, QUICK)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        told: list[object] = []
        sampler.on_queue_state(told.append)
        server.paused_as = ("paused_rate_limit", None)
        first = [sampler.sample(PROMPT) for _ in range(3)]
        await asyncio.sleep(1.5)
        assert [type(event) for event in told] == [SamplingQueuePaused]
        assert isinstance(told[0], SamplingQueuePaused)
        assert told[0].reason == "concurrent sampler weights limit hit"
        held = sampler.sample(PROMPT)
        await settle()
        assert "queue paused_rate_limit: concurrent sampler weights limit hit" in str(held.explain())
        assert "queue paused_rate_limit" in str(first[0].explain())
        server.paused_as = None
        await asyncio.gather(*first, held)
        assert [type(event) for event in told] == [SamplingQueuePaused, SamplingQueueResumed]
        server.paused_as = ("paused_capacity", "maintenance")
        again = sampler.sample(PROMPT)
        await asyncio.sleep(2.0)
        assert len(told) == 2, "debounced"
        server.paused_as = None
        await again


@virtual_time()
async def test_a_stuck_session_is_given_up_with_the_cause_named() -> None:
    service, server = sampling(0, QUICK)
    async with service:
        retry = RetryConfig(progress_timeout=300.0)
        sampler = await service.create_sampling_client(base_model="m", retry_config=retry)
        patient = await service.create_sampling_client(
            base_model="m", retry_config=RetryConfig(progress_timeout=300.0, enable_stuck_detection=False)
        )
        server.paused_as = ("paused_capacity", "maintenance until noon")
        stuck, waiting = [sampler.sample(PROMPT) for _ in range(3)], patient.sample(PROMPT)
        began = asyncio.get_running_loop().time()
        with pytest.raises(
            APITimeoutError, match=r"3 of them: queue paused_capacity for 29\d s: maintenance until noon"
        ):
            await stuck[0]
        assert asyncio.get_running_loop().time() - began == pytest.approx(300.0, abs=1.1)
        assert all(future.done() and future.peek() is not None for future in stuck)
        assert not waiting.done()
        await settle()
        assert len(server.cancelled) == 3, "the server is told that nobody wants them any more"
        server.paused_as = None
        await waiting


@virtual_time()
async def test_a_server_that_stops_answering_polls_is_named_as_the_cause() -> None:
    service, server = sampling(0, QUICK)
    async with service:
        sampler = await service.create_sampling_client(base_model="m", retry_config=RetryConfig(progress_timeout=100.0))
        server.refuse_polls = 503
        with pytest.raises(APITimeoutError, match=r"polls in a row without a usable answer for (9\d|100) s"):
            await sampler.sample(PROMPT)
        server.refuse_polls = None


@virtual_time()
async def test_a_conflict_while_polling_a_sample_does_not_sample_again() -> None:
    service, server = sampling(0, QUICK)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        server.refuse_polls = 409
        with pytest.raises(APIStatusError) as caught:
            await sampler.sample(PROMPT)
        assert caught.value.status_code == 409
        assert server.seen["asample"] == 1
        server.refuse_polls = None


@virtual_time()
async def test_cancelling_tells_a_server_that_wants_to_know() -> None:
    service, server = sampling(0, Faults(latency=0.0, compute=0.0))
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        server.faults = Faults(latency=0.0, compute=1000.0)
        futures = [sampler.sample(PROMPT) for _ in range(100)]
        await settle()
        requests = [future.request_id for future in futures]
        for future in futures:
            future.cancel()
        never_posted = sampler.sample(PROMPT)
        never_posted.cancel()
        await settle()
        await asyncio.sleep(1.0)
        assert sorted(server.cancelled) == sorted(name for name in requests if name)


@virtual_time()
async def test_one_long_poll_for_the_whole_session_where_the_server_has_it() -> None:
    service, server = sampling(0, QUICK, sample_use_retrieve_futures=True)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        server.faults = Faults(latency=0.0, compute=50.0)
        waiting = [sampler.sample(PROMPT) for _ in range(30)]
        await settle()
        assert server.polls_open == 0
        assert "polled with its sampling session" in str(waiting[0].explain())
        await asyncio.gather(*waiting)
        await asyncio.sleep(60.0)
        assert server.seen["retrieve_future"] == 30
        reported = [name for asked in server.by_session for name in asked.retrieved_request_ids]
        assert sorted(reported) == sorted(future.request_id or "" for future in waiting), "each read once, told once"
        quiet = server.seen["retrieve_futures"]
        await asyncio.sleep(600.0)
        assert server.seen["retrieve_futures"] == quiet, "idle while nobody waits"


@virtual_time()
async def test_a_server_without_session_polls_is_polled_singly_from_then_on() -> None:
    service, server = sampling(0, QUICK, sample_use_retrieve_futures=True)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        server.refuse_session_polls = [503, 400, 404]
        await asyncio.gather(*(sampler.sample(PROMPT) for _ in range(5)))
        await sampler.sample(PROMPT)
        assert server.seen["retrieve_futures"] == 3
        assert server.seen["retrieve_future"] == 6


@virtual_time()
async def test_shares_and_priorities_decide_who_is_posted_while_samples_wait() -> None:
    class Narrow(ModelServer):
        sample_slots = 1

    server = Narrow(random.Random(0), QUICK)
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        small, large = [await service.create_sampling_client(base_model="m") for _ in range(2)]
        large.share = 4.0
        order: list[str] = []
        futures = []
        for name, sampler, priority in (
            ("a", small, "normal"),
            ("b", large, "normal"),
            ("c", large, "high"),
        ):
            for _ in range(20):
                future = sampler.sample(PROMPT, priority=priority)  # type: ignore[arg-type]
                future.add_done_callback(lambda _, name=name: order.append(name))
                futures.append(future)
        await asyncio.gather(*futures)
        head = order[:25]
        assert head.count("c") > 2 * head.count("b") > 0
        assert 2 <= head.count("a") <= 7
        with pytest.raises(InputError, match="share"):
            small.share = 0.0
        with pytest.raises(InputError, match="priority"):
            small.sample(PROMPT, priority="urgent")  # type: ignore[arg-type]


def test_retry_config_has_the_official_fields_and_checks_them() -> None:
    config = RetryConfig()
    assert (config.enable_stuck_detection, config.max_connections) == (True, 1000)
    assert RetryConfig(max_connections=None).max_connections is None
    with pytest.raises(ConfigError, match="max_connections"):
        RetryConfig(max_connections=0)
    with pytest.raises(ConfigError, match="retryable_exceptions"):
        RetryConfig(retryable_exceptions=("timeout",))  # type: ignore[arg-type]


@virtual_time()
async def test_errors_named_retryable_are_sampled_again_for_and_others_are_not() -> None:
    service, server = sampling(0, QUICK)
    async with service:
        retry = RetryConfig(retryable_exceptions=(PermissionDeniedError,))
        again = await service.create_sampling_client(base_model="m", retry_config=retry)
        plain = await service.create_sampling_client(base_model="m")
        server.refuse_polls = 403
        sample, refused = again.sample(PROMPT, 1, SamplingParams(max_tokens=1)), plain.sample(PROMPT)
        with pytest.raises(PermissionDeniedError):
            await refused
        server.refuse_polls = None
        assert (await sample).sequences[0].tokens[0] >= 1, "under a number after the first"
