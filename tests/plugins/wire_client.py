"""A bare client of any transport, for tests of servers: wire's client functions and nothing clever on top."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from tinkex_actors import types
from tinkex_actors.config import Config
from tinkex_actors.engine.service.call import EngineOptions
from tinkex_actors.engine.service.provocations import Provocations
from tinkex_actors.engine.transport import LocalTransport
from tinkex_actors.errors import RequestFailedError
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.transport import Transport
from tinkex_actors.wire.answers import Failed, MetadataOnly, PollAnswer, Ready
from tinkex_actors.wire.client import decode_poll, decode_response, encode_request, poll_request
from tinkex_actors.wire.dialect import HOSTED, Dialect
from tinkex_actors.wire.quirks import Quirks
from tinkex_actors.wire.routes import ROUTES


class WireClient:
    """Sends one request at a time and numbers nothing by itself."""

    def __init__(
        self, transport: Transport, dialect: Dialect = HOSTED, headers: Mapping[str, str] | None = None
    ) -> None:
        self.transport = transport
        self.dialect = dialect
        self.headers = dict(headers or {})

    async def call(self, name: str, message: Any = None, **path: str) -> Any:
        """Exchange; return the decoded answer (a promise for asynchronous routes) or raise the status's error."""
        request = encode_request(ROUTES[name], message, self.dialect, path=path, headers=self.headers)
        return decode_response(ROUTES[name], await self.transport.send(request))

    async def poll(self, name: str, request_id: str, *, allow_metadata_only: bool = False) -> PollAnswer:
        """Ask once for a promise's result."""
        request = poll_request(
            request_id, ROUTES[name], self.dialect, iteration=0, allow_metadata_only=allow_metadata_only
        )
        request.headers |= self.headers
        return decode_poll(ROUTES[name], await self.transport.send(request), self.dialect)

    async def result(self, name: str, promise: types.UntypedAPIFuture) -> Any:
        """Poll until the promise is settled; return its result or raise ``RequestFailedError``."""
        while True:
            answer = await self.poll(name, promise.request_id)
            if isinstance(answer, Ready):
                return answer.result
            if isinstance(answer, Failed):
                raise RequestFailedError(answer.error, request_id=promise.request_id, category=answer.category)
            assert not isinstance(answer, MetadataOnly)

    async def do(self, name: str, message: Any) -> Any:
        """Call an asynchronous route and wait for its result."""
        return await self.result(name, await self.call(name, message))

    async def session(self) -> str:
        """Open a session."""
        request = types.CreateSessionRequest(tags=[], user_metadata={}, sdk_version="0.38.0")
        answer: types.CreateSessionResponse = await self.call("create_session", request)
        return answer.session_id

    async def model(
        self, session_id: str | None = None, number: int = 0, *, rank: int = 4, seed: int | None = 1
    ) -> str:
        """Create a model, in a new session where none is given."""
        request = types.CreateModelRequest(
            session_id=session_id or await self.session(),
            model_seq_id=number,
            base_model="tiny",
            lora_config=types.LoraConfig(rank=rank, seed=seed),
        )
        answer: types.CreateModelResponse = await self.do("create_model", request)
        return answer.model_id


def batch(first: int = 10, length: int = 16, count: int = 2) -> list[types.Datum]:
    """A batch of counting sequences: easy to learn, different for different ``first``."""
    rows = [list(range(first + row, first + row + length + 1)) for row in range(count)]
    return [
        types.Datum(
            model_input=types.ModelInput.from_ints(row[:-1]),
            loss_fn_inputs={"target_tokens": row[1:], "weights": [1.0] * length},
        )
        for row in rows
    ]


def pass_request(
    model_id: str,
    seq_id: int | None,
    data: Sequence[types.Datum] | None = None,
    *,
    loss_fn: str = "cross_entropy",
    forward_only: bool = False,
) -> types.ForwardBackwardRequest:
    """A forward_backward request; ``data`` defaults to ``batch()``."""
    given = types.ForwardBackwardInput(data=list(batch() if data is None else data), loss_fn=loss_fn)
    return types.ForwardBackwardRequest(
        model_id=model_id, seq_id=seq_id, forward_backward_input=given, forward_only=forward_only
    )


def step_request(model_id: str, seq_id: int | None, learning_rate: float = 5e-3) -> types.OptimStepRequest:
    """An optim_step request."""
    return types.OptimStepRequest(
        model_id=model_id, seq_id=seq_id, adam_params=types.AdamParams(learning_rate=learning_rate)
    )


def engine_config(store: Path) -> Config:
    """The user's cache and a store of the test's own."""
    return msgspec.structs.replace(Config.from_environment(base_url="local://tiny"), engine_store=store)


@asynccontextmanager
async def local_engine(
    store: Path,
    *,
    dialect: Dialect = HOSTED,
    strict: bool = False,
    system: ActorSystem | None = None,
    quirks: Sequence[str] = (),
    without: Sequence[str] = (),
    provoke: Sequence[str] = (),
    model: str = "tiny",
) -> AsyncIterator[WireClient]:
    """A client of an engine on a store of its own, in a system of its own where none is given."""
    async with ActorSystem() as own:
        options = EngineOptions(
            dialect=dialect,
            strict=strict,
            quirks=Quirks.named(list(quirks), list(without)),
            provocations=Provocations(provoke),
        )
        transport = LocalTransport(model, system=system or own, config=engine_config(store), options=options)
        try:
            yield WireClient(transport, dialect)
        finally:
            await transport.close()
