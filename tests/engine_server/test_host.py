"""The engine as an actor: shared and counted, stopped in order, and unharmed by a crash of its driver."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from tests.plugins.wire_client import WireClient, engine_config, local_engine, pass_request, step_request
from tinkex_actors import types
from tinkex_actors.engine.service.host import lease
from tinkex_actors.engine.service.state.jobs import Job
from tinkex_actors.engine.service.state.promises import Promise
from tinkex_actors.engine.service.state.sessions import Sessions
from tinkex_actors.engine.transport import LocalTransport, open_local
from tinkex_actors.errors import APIConnectionError, APITimeoutError, ConfigError, RequestFailedError
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.transport import open_transport
from tinkex_actors.wire.client import encode_request
from tinkex_actors.wire.exchange import Request
from tinkex_actors.wire.routes import ROUTES

HEALTHZ = Request("GET", "/api/v1/healthz", {})


async def test_local_urls_open_the_engine_of_that_name_without_starting_it(tmp_path: Path) -> None:
    async with ActorSystem() as system:
        transport = open_transport("local://tiny", system=system, config=engine_config(tmp_path))
        assert isinstance(transport, LocalTransport)
        assert system.whereis("engine-tiny") is None
        assert (await transport.send(HEALTHZ)).status == 200
        assert system.whereis("engine-tiny") is not None
        await transport.close()
        with pytest.raises(ConfigError, match="names no model"):
            open_local("local://", system=system, config=engine_config(tmp_path))


async def test_an_engine_that_could_never_compute_says_so_at_the_first_request(tmp_path: Path) -> None:
    async with ActorSystem() as system:
        transport = open_local("local://nothing", system=system, config=engine_config(tmp_path))
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"'nothing': no such local model; there are .*tiny"):
                await transport.send(HEALTHZ)
        assert system.whereis("engine-nothing") is None
        await transport.close()


async def test_transports_of_one_system_share_an_engine_until_the_last_is_closed(tmp_path: Path) -> None:
    async with ActorSystem() as system:
        transports = [open_local("local://tiny", system=system, config=engine_config(tmp_path)) for _ in range(3)]
        # All at once: one of them starts it, the others join.
        answers = await asyncio.gather(*(transport.send(HEALTHZ) for transport in transports for _ in range(4)))
        assert {answer.status for answer in answers} == {200}
        model_id = await WireClient(transports[0]).model()
        await transports[0].close()
        info = await WireClient(transports[1]).call("get_info", types.GetInfoRequest(model_id=model_id))
        assert info.model_id == model_id
        with pytest.raises(APIConnectionError, match="closed"):
            await transports[0].send(HEALTHZ)
        await transports[1].close()
        await transports[2].close()
        await transports[2].close()
        assert system.whereis("engine-tiny") is None
        # A new one starts anew.
        async with local_engine(tmp_path, system=system) as client:
            assert await client.model() != model_id


async def test_opening_imports_no_jax_and_the_loop_never_touches_the_disk(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from blockbuster import blockbuster_ctx
from tests.plugins.wire_client import local_engine, step_request
from tinkex_actors import types

async def main():
    with blockbuster_ctx("tinkex_actors"):
        async with local_engine(Path(sys.argv[1])) as client:
            await client.session()
            await client.call("get_server_capabilities")
            assert "jax" not in sys.modules
            model_id = await client.model()
            assert "jax" in sys.modules
            saved = await client.do("save_weights", types.SaveWeightsRequest(model_id=model_id, seq_id=1, path="a"))
            await client.call("list_user_checkpoints", types.ListCheckpointsRequest())
            await client.call("list_training_runs", types.ListTrainingRunsRequest())
            await client.call("weights_info", types.WeightsInfoRequest(tinker_path=saved.path))
            await client.call("delete_checkpoint", training_run_id=model_id, checkpoint_id="weights/a")
    print("ok")

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await process.communicate()
    assert out.decode().strip() == "ok", errors.decode()[-3000:]


async def test_closing_ends_what_waits(tmp_path: Path) -> None:
    async with ActorSystem() as system:
        transport = open_local("local://tiny", system=system, config=engine_config(tmp_path))
        client = WireClient(transport)
        model_id = await client.model()
        promise = await client.call("optim_step", step_request(model_id, 2))
        waiting = asyncio.ensure_future(client.poll("optim_step", promise.request_id))
        await asyncio.sleep(0)
        await transport.close()
        with pytest.raises(APIConnectionError, match="closed"):
            await waiting


async def test_a_request_has_its_own_time(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        request = encode_request(ROUTES["get_server_capabilities"], None, client.dialect)
        request.timeout = 1e-9
        with pytest.raises(APITimeoutError, match="no answer to GET /api/v1/get_server_capabilities within 1e-09 s"):
            await client.transport.send(request)


async def test_a_killed_driver_repeats_no_step_and_loses_none(tmp_path: Path) -> None:
    async with ActorSystem() as system, local_engine(tmp_path, system=system) as client:
        model_id, straight = await client.model(), await client.model()
        for each in (model_id, straight):
            await client.do("forward_backward", pass_request(each, 1))
        supervisor = system.whereis("engine-tiny")
        assert supervisor is not None
        held = await lease("tiny", system=system, config=engine_config(tmp_path))
        started, go_on = threading.Event(), threading.Event()
        runs: list[str] = []

        def block(core: object, job: Job) -> str:
            runs.append("run")
            started.set()
            go_on.wait(30.0)
            return "computed once"

        blocking = held.cell.promises.add(Promise("block", "optim_step", "none"))
        held.cell.jobs.put(Job(blocking, block, lambda value: value))
        step = await client.call("optim_step", step_request(model_id, 2))
        await asyncio.to_thread(started.wait, 30.0)
        before = supervisor.child("host").statistics()
        supervisor.child("host").kill("test")
        go_on.set()
        assert (await client.result("optim_step", step)).metrics["optim_steps:max"] == 1.0
        assert (blocking.result, runs) == ("computed once", ["run"])
        assert supervisor.child("host").statistics() != before

        await client.do("optim_step", step_request(straight, 2))
        last = [await client.do("forward_backward", pass_request(each, 3)) for each in (model_id, straight)]
        assert last[0] == last[1]
        await held.release()


async def test_an_engine_that_gives_up_fails_its_promises_and_leaves_the_system_alone(tmp_path: Path) -> None:
    async with ActorSystem() as system, local_engine(tmp_path, system=system) as client:
        model_id = await client.model()
        promise = await client.call("optim_step", step_request(model_id, 2))
        supervisor = system.whereis("engine-tiny")
        assert supervisor is not None
        for _ in range(4):
            if supervisor.alive and supervisor.children:
                supervisor.child("host").kill("test")
            await asyncio.sleep(0)
            await asyncio.wait([supervisor.stopped], timeout=0.05)
        await asyncio.wait_for(asyncio.shield(supervisor.stopped), 10.0)
        with pytest.raises(RequestFailedError, match="engine was closed") as caught:
            await client.result("optim_step", promise)
        assert caught.value.category == "server"
        late = await client.call("optim_step", step_request(model_id, 1))
        with pytest.raises(RequestFailedError, match="engine was closed"):
            await client.result("optim_step", late)
        assert system.failure is None
        assert len(list((tmp_path / "tiny" / "owners").iterdir())) == 1
    # The transport is closed by now, and the store is given back.
    assert list((tmp_path / "tiny" / "owners").iterdir()) == []


async def test_an_engine_s_own_fault_is_the_server_s_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with ActorSystem() as system, local_engine(tmp_path, system=system) as client:
        session_id = await client.session()
        held = await lease("tiny", system=system, config=engine_config(tmp_path))

        def fail(core: object, job: Job) -> None:
            raise RuntimeError("a defect")

        promise = held.cell.promises.add(Promise("broken", "optim_step", session_id))
        held.cell.jobs.put(Job(promise, fail, lambda value: value))
        with pytest.raises(RequestFailedError, match="a defect") as caught:
            await client.result("optim_step", types.UntypedAPIFuture(request_id="broken"))
        assert caught.value.category == "server"
        (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
        assert "engine.operation_failed" in line
        assert "a defect" in line
        await held.release()


async def test_a_running_computation_stops_between_its_parts_when_its_session_ends(tmp_path: Path) -> None:
    async with ActorSystem() as system, local_engine(tmp_path, system=system) as client:
        session_id = await client.session()
        held = await lease("tiny", system=system, config=engine_config(tmp_path))
        started = threading.Event()
        asked: list[bool] = []

        def compute(core: object, job: Job) -> None:
            started.set()
            # As the numeric core does between microbatches.
            while not job.should_stop():
                asked.append(True)
                threading.Event().wait(0.001)

        promise = held.cell.promises.add(Promise("long", "optim_step", session_id))
        held.cell.jobs.put(Job(promise, compute, lambda value: value))
        await asyncio.to_thread(started.wait, 30.0)
        request = types.FinishSessionRequest(reason=types.FinishReason(type="interrupted"))
        await client.call("finish_session", request, session_id=session_id)
        # The compute thread is free again: another session's work runs.
        assert await client.model()
        assert asked
        await held.release()


async def test_a_defect_is_a_500_that_nobody_repeats(tmp_path: Path) -> None:
    async with ActorSystem() as system, local_engine(tmp_path, system=system) as client:
        held = await lease("tiny", system=system, config=engine_config(tmp_path))
        held.cell.sessions = None  # type: ignore[assignment]
        query = types.ListSessionsRequest()
        response = await client.transport.send(encode_request(ROUTES["list_sessions"], query, client.dialect))
        held.cell.sessions = Sessions()
        await held.release()
    assert response.status == 500
    assert b"list_sessions: AttributeError" in response.body
    assert response.headers["x-should-retry"] == "false"


async def test_what_is_no_record_does_not_hide_those_that_are(tmp_path: Path) -> None:
    runs = tmp_path / "tiny" / "runs"
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        saved = types.SaveWeightsRequest(model_id=model_id, seq_id=1, path="a")
        await client.do("save_weights", saved)
        (runs / "broken" / "run.json").mkdir(parents=True)
        (runs / "broken" / "weights" / "b" / "meta.json").mkdir(parents=True)
        (runs / "half").mkdir()
        (runs / "half" / "run.json").write_text("{")
        listed = await client.call("list_training_runs", types.ListTrainingRunsRequest())
        assert [run.training_run_id for run in listed.training_runs] == [model_id]
        found = await client.call("list_user_checkpoints", types.ListCheckpointsRequest())
        assert [entry.checkpoint_id for entry in found.checkpoints] == ["weights/a"]
