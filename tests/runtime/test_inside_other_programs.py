"""Inside programs that own the loop: FastAPI under uvicorn, and the cells of a notebook."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from tests.runtime.actors import Hooked, Sleeper
from tests.runtime.test_embedding import loops
from tinkex_actors.errors import ActorStoppedError, CallTimeoutError
from tinkex_actors.runtime import ActorRef, ActorSystem, ChildSpec, Supervisor


def application(journal: list[str]) -> FastAPI:
    """A web application whose life is the life of an actor system."""
    actors: dict[str, ActorRef[Any]] = {}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with ActorSystem(name="web") as system:
            children = [ChildSpec(Hooked, (name, journal), name=name) for name in "ab"]
            actors["top"] = await system.spawn(Supervisor, children, name="top")
            actors["sleeper"] = await system.spawn(Sleeper)
            yield
        journal.append("left")

    app = FastAPI(lifespan=lifespan)

    @app.put("/items/{item}")
    async def put(item: str) -> list[str]:
        await actors["sleeper"].call.put(item)
        seen: list[str] = await actors["sleeper"].call.seen()
        return seen

    @app.get("/slow")
    async def slow() -> None:
        try:
            await actors["sleeper"].within(0.01).call.nap(0.05)
        except CallTimeoutError as error:
            raise HTTPException(504, str(error)) from error

    @app.post("/crash/{name}")
    async def crash(name: str) -> str:
        try:
            await actors["top"].child(name).call.crash()
        except ZeroDivisionError:
            answer: str = await actors["top"].child(name).call.ping()
            return f"{answer} is back"
        return "nothing happened"

    return app


async def serve_and_ask(journal: list[str]) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(application(journal), log_config=None, lifespan="on", http="h11", ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve([listener]))
    async with aiohttp.ClientSession(url) as session:

        async def ask(method: str, path: str) -> tuple[int, Any]:
            async with session.request(method, path) as response:
                return response.status, json.loads(await response.text())

        answers = await asyncio.gather(*(ask("PUT", f"/items/{item}") for item in "xyz"))
        assert [status for status, _ in answers] == [200, 200, 200]
        assert sorted((await ask("PUT", "/items/w"))[1]) == ["w", "x", "y", "z"]
        status, body = await ask("GET", "/slow")
        assert status == 504
        assert "did not answer nap within 0.01 s" in body["detail"]
        assert await ask("POST", "/crash/a") == (200, "a is back")
    server.should_exit = True
    await serving


@pytest.mark.parametrize("factory", loops(), ids=lambda factory: factory.__module__)
def test_inside_fastapi_under_uvicorn(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Real HTTP on loopback; the application's lifespan starts and stops the system in order."""
    journal: list[str] = []
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve_and_ask(journal))
    assert journal[:4] == ["a:new", "a:init", "b:new", "b:init"]
    assert journal[-3:] == ["b:stop:Shutdown", "a:stop:Shutdown", "left"]


CELLS = [
    """
from tests.runtime.actors import Recorder, Sleeper
from tinkex_actors.runtime import ActorSystem
system = await ActorSystem(name="notebook").start()
""",
    "ref = await system.spawn(Sleeper, name='worker')",
    "ref.cast.put(1)\nref.cast.nap(0.01)",
    "seen = await ref.call.seen()",
    "answer = await ref.call.crash()",
    "again = await ref.call.seen()\npicture = str(system.tree())",
    "report = await system.stop()",
    "await ref.call.seen()",
]


async def test_inside_the_cells_of_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One loop under all cells: a system made in one is used in the next, and lives between them."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    results = []
    for cell in CELLS:
        transformed = shell.transform_cell(cell)
        results.append(await shell.run_cell_async(cell, silent=True, transformed_cell=transformed))
        await asyncio.sleep(0.02)  # somebody thinks about the next cell
    errors = [result.error_in_exec for result in results]
    assert [type(error) for error in errors if error is not None] == [ZeroDivisionError, ActorStoppedError]
    assert isinstance(errors[4], ZeroDivisionError), "a crash is shown in its cell, and the system lives on"
    names = shell.user_ns
    assert names["seen"] == [1, "napped"]
    assert names["again"] == []
    assert "worker" in names["picture"]
    assert names["report"].clean
