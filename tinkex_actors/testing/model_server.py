"""A Tinker server that counts: which training requests were applied, in which order, how often.

It computes nothing. It is there for what a real server cannot be made to show on demand: connections that break
before or after a request was taken, answers that come late, promises that are lost. Everything it does by chance, it
draws from a seeded generator, and everything it waits for is virtual time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tinkex_actors.errors import APIConnectionError, ClosedError, WireError
from tinkex_actors.types import (
    ClientConfigResponse,
    ClientDynamicConfigResponse,
    CreateModelResponse,
    CreateSamplingSessionResponse,
    CreateSessionResponse,
    ForwardBackwardOutput,
    GetInfoResponse,
    GetSamplerResponse,
    GetServerCapabilitiesResponse,
    LoadWeightsResponse,
    ModelData,
    OptimStepResponse,
    SampledSequence,
    SampleResponse,
    SaveWeightsForSamplerResponseInternal,
    SaveWeightsResponse,
    SessionHeartbeatResponse,
    SupportedModel,
    TelemetryResponse,
    TensorData,
    UnloadModelResponse,
    UntypedAPIFuture,
)
from tinkex_actors.wire.routes import Route
from tinkex_actors.wire.server import (
    decode_request,
    encode_error,
    encode_failure,
    encode_response,
    encode_result,
    encode_try_again,
    match,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tinkex_actors.wire.exchange import Request, Response

__all__ = ["Faults", "ModelServer"]

_LONG_POLL = 20.0


class Faults(msgspec.Struct, frozen=True):
    """How often things go wrong, each as a probability per request.

    Attributes:
        lost_request: the connection breaks before the server sees the request.
        lost_answer: it breaks after the server has taken it.
        duplicated: the server is given the request a second time, up to ten seconds later.
        busy: the server answers 503 instead of taking it.
        unsure: a training request is answered 503 or 408, and has been taken or not.
        conflict: a training request is answered 409 instead of being taken.
        limited: a sample or a training request is answered 429.
        unpaid: a training request or a poll is answered 402 instead of being taken.
        refused: a ``forward_backward`` is answered 422, which completes its number; again, when it is sent again.
        forgotten: a poll of training is answered 410, and its result is lost.
        latency: longest time, in seconds, that each way takes.
        compute: longest time, in seconds, that an operation takes.
    """

    lost_request: float = 0.0
    lost_answer: float = 0.0
    duplicated: float = 0.0
    busy: float = 0.0
    unsure: float = 0.0
    conflict: float = 0.0
    limited: float = 0.0
    unpaid: float = 0.0
    refused: float = 0.0
    forgotten: float = 0.0
    latency: float = 0.01
    compute: float = 0.5


class _Promise:
    __slots__ = ("category", "done", "error", "result", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.done = asyncio.Event()
        self.result: Any = None
        self.error: str | None = None
        self.category = "unknown"


class _Model:
    __slots__ = ("next_seq", "waiting", "worker")

    def __init__(self) -> None:
        self.next_seq = 1
        self.waiting: dict[int, tuple[_Promise | None, Any]] = {}
        self.worker: asyncio.Task[None] | None = None


class ModelServer:
    """A transport whose server lives in the test.

    Args:
        rng: where chance comes from.
        faults: how much of it.

    Attributes:
        posted: for each model, the numbers in the order in which they arrived, re-sent ones included.
        applied: for each model, the (number, route) pairs in the order in which they were executed.
        seen: requests by route name, re-sent ones included.
        polls_open: promises being polled now.
        forget_promises: lose the promise that is asked for next (410), once.
        fail_with: fail every operation with these words and this category.
        flags: what it answers to ``client/config``.
        numbered: it orders training requests by their number and knows a repeated one again; otherwise it applies
            what comes as it comes, also twice.
        gap_after: seconds after which a number that does not come is passed over; None waits for it.
        refuse: numbers of training requests that are answered 422, which completes them.
        queue: state and reason of a paused queue, as `pause` set it; None while it is active.
    """

    def __init__(self, rng: random.Random, faults: Faults | None = None) -> None:
        self.rng = rng
        self.faults = faults or Faults()
        self.posted: dict[str, list[int]] = {}
        self.applied: dict[str, list[tuple[int, str]]] = {}
        self.seen: Counter[str] = Counter()
        self.polls_open = 0
        self.forget_promises = False
        self.fail_with: tuple[str, str] | None = None
        self.flags = ClientConfigResponse()
        self.numbered = True
        self.gap_after: float | None = None
        self.refuse: frozenset[int] = frozenset()
        self.queue: tuple[str, str] | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._closed = False
        self._down_until = 0.0
        self._restarts = 0
        self._lost_models: set[str] = set()
        self._refused: set[tuple[str, int]] = set()
        self._sessions: dict[str, str] = {}
        self._ids = itertools.count()
        self._keys: dict[tuple[Any, ...], str] = {}
        self._promises: dict[str, _Promise] = {}
        self._models: dict[str, _Model] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._answers: dict[str, Callable[[Any, dict[str, str]], Any]] = {
            "client_config": lambda *_: self.flags,
            "dynamic_config": lambda *_: ClientDynamicConfigResponse(),
            "session_heartbeat": lambda *_: SessionHeartbeatResponse(),
            "finish_session": lambda *_: None,
            "telemetry": lambda *_: TelemetryResponse(),
            "get_server_capabilities": lambda *_: GetServerCapabilitiesResponse(
                supported_models=[
                    SupportedModel(model_name="m", max_context_length=64, trainable=True, sampleable=True)
                ]
            ),
            "get_info": lambda message, _: GetInfoResponse(
                model_data=ModelData(model_name="m"), model_id=message.model_id
            ),
            "get_sampler": lambda _, path: GetSamplerResponse(sampler_id=path["sampler_id"], base_model="m"),
            "create_sampling_session": lambda message, _: CreateSamplingSessionResponse(
                sampling_session_id=f"{message.session_id}:sample:{message.sampling_session_seq_id}"
            ),
        }

    async def send(self, request: Request) -> Response:
        """Answer one request, or break."""
        if self._closed:
            raise ClosedError("the model server is closed")
        restarts = self._restarts
        await self._pass_time(self.faults.latency)
        self._require_up(restarts)
        if self.rng.random() < self.faults.lost_request:
            raise APIConnectionError("the connection broke before the request arrived")
        if self.rng.random() < self.faults.duplicated:
            self._spawn(self._deliver_again(request))
        response = await self._answer(request)
        await self._pass_time(self.faults.latency)
        self._require_up(restarts)
        if self.rng.random() < self.faults.lost_answer:
            raise APIConnectionError("the connection broke before the answer arrived")
        return response

    def pause(self, state: str, reason: str) -> None:
        """Execute nothing, and say so to polls."""
        self.queue = (state, reason)
        self._open.clear()

    def resume(self) -> None:
        """Execute again."""
        self.queue = None
        self._open.set()

    def restart(self, *, down: float, keep_state: bool) -> None:
        """Break every connection and be away for a while.

        Args:
            down: seconds.
            keep_state: False forgets every model and every promise.
        """
        self._restarts += 1
        self._down_until = asyncio.get_running_loop().time() + down
        if not keep_state:
            self._lost_models |= self._models.keys()
            self._models.clear()
            self._promises.clear()
            self._keys.clear()
            for task in list(self._running):
                task.cancel()

    def _require_up(self, restarts: int) -> None:
        if asyncio.get_running_loop().time() < self._down_until:
            raise APIConnectionError("connection refused", sent=restarts != self._restarts)
        if restarts != self._restarts:
            raise APIConnectionError("the connection broke with the server")

    async def _deliver_again(self, request: Request) -> None:
        await self._pass_time(10.0)
        if not self._closed and asyncio.get_running_loop().time() >= self._down_until:
            await self._answer(request)

    async def close(self) -> None:
        """Stop computing."""
        self._closed = True
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _pass_time(self, longest: float) -> None:
        await asyncio.sleep(self.rng.random() * longest)

    async def _answer(self, request: Request) -> Response:
        found = match(request)
        if found is None:
            return encode_error(404, "no such endpoint")
        route, path = found
        self.seen[route.name] += 1
        if self.rng.random() < self.faults.busy:
            return encode_error(503, "busy")
        try:
            message = decode_request(route, request)
        except WireError as error:
            return encode_error(422, str(error))
        if route.name == "retrieve_future":
            if self.rng.random() < self.faults.unpaid:
                return encode_error(402, "pay first")
            return await self._retrieve(message.request_id, request.headers.get("Accept", ""))
        if route.name == "create_session":
            # The first is "sess"; asked for again under its key it is the same one.
            key = request.headers.get("X-Idempotency-Key", "")
            number = len(self._sessions)
            name = self._sessions.setdefault(key, f"sess-{number}" if number else "sess")
            return encode_response(route, CreateSessionResponse(session_id=name))
        if route.name == "asample" and self.rng.random() < self.faults.limited:
            return encode_error(429, "slow down")
        if getattr(message, "seq_id", None) is not None and getattr(message, "model_id", None) is not None:
            return self._train(route, message)
        if route.asynchronous:
            return encode_response(route, self._promise(route, message))
        if route.name not in self._answers:
            return encode_error(404, f"this server has no {route.name}")
        return encode_response(route, self._answers[route.name](message, path))

    def _train(self, route: Route, message: Any) -> Response:
        """Take a numbered request, or answer that it was not, or might not have been."""
        if message.model_id in self._lost_models:
            return encode_error(404, f"no model {message.model_id}")
        if self._refuses(route, message):
            self._enqueue(message.model_id, message.seq_id, None, message)
            return encode_error(422, "this cannot be computed")
        faults, chance = self.faults, self.rng.random
        if chance() < faults.conflict:
            return encode_error(409, "being changed")
        if chance() < faults.limited:
            return encode_error(429, "slow down")
        if chance() < faults.unpaid:
            return encode_error(402, "pay first")
        if chance() < faults.unsure:
            if chance() < 0.5:
                self._promise(route, message)
            return encode_error(408 if chance() < 0.5 else 503, "perhaps")
        return encode_response(route, self._promise(route, message))

    def _refuses(self, route: Route, message: Any) -> bool:
        if getattr(message, "forward_only", False):
            return False
        number = (message.model_id, message.seq_id)
        if self.faults.refused and route.name == "forward_backward" and number not in self._keys:
            # What was promised once is kept.
            chance = self.rng.random()
            if chance < self.faults.refused:
                self._refused.add(number)
        return message.seq_id in self.refuse or number in self._refused

    # --- promises ----------------------------------------------------------------------------------------------------
    def _promise(self, route: Route, message: Any) -> UntypedAPIFuture:
        key = _key(route, message)
        sequences = [f"{key}-{n}" for n in range(message.num_samples)] if route.name == "asample" else None
        seq_id, model_id = getattr(message, "seq_id", None), getattr(message, "model_id", None)
        if model_id is not None and seq_id is not None:
            self.posted.setdefault(model_id, []).append(seq_id)
        if model_id is not None and seq_id is not None and not self.numbered:
            key = (*key, next(self._ids))
        if key not in self._keys:
            request_id = self._keys[key] = f"p{next(self._ids)}"
            promise = self._promises[request_id] = _Promise(route)
            if model_id is not None and seq_id is not None:
                self._enqueue(model_id, seq_id, promise, message)
            else:
                self._spawn(self._execute(promise, message))
        return UntypedAPIFuture(request_id=self._keys[key], sample_sequence_ids=sequences)

    def _enqueue(self, model_id: str, seq_id: int, promise: _Promise | None, message: Any) -> None:
        model = self._models.setdefault(model_id, _Model())
        if self.numbered and seq_id < model.next_seq:
            return
        model.waiting[seq_id if self.numbered else model.next_seq + len(model.waiting)] = (promise, message)
        if model.worker is None or model.worker.done():
            model.worker = self._spawn(self._work(model_id, model))
        if self.gap_after is not None and model.next_seq not in model.waiting:
            self._spawn(self._pass_over(model_id, model, self.gap_after))

    async def _pass_over(self, model_id: str, model: _Model, seconds: float) -> None:
        missing = model.next_seq
        await asyncio.sleep(seconds)
        if model.next_seq == missing and model.waiting:
            model.next_seq = min(model.waiting)
            model.worker = self._spawn(self._work(model_id, model))

    async def _work(self, model_id: str, model: _Model) -> None:
        while model.next_seq in model.waiting:
            promise, message = model.waiting.pop(model.next_seq)
            await self._open.wait()
            if promise is None:
                model.next_seq += 1
                continue
            name = "forward" if getattr(message, "forward_only", False) else promise.route.name
            self.applied.setdefault(model_id, []).append((message.seq_id, name))
            model.next_seq += 1
            await self._execute(promise, message)

    async def _execute(self, promise: _Promise, message: Any) -> None:
        await self._pass_time(self.faults.compute)
        if self.fail_with is not None:
            promise.error, promise.category = self.fail_with
        else:
            promise.result = _result(promise.route, message)
        promise.done.set()

    def _forgets(self, promise: _Promise) -> bool:
        return promise.route.pool == "train" and self.rng.random() < self.faults.forgotten

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _retrieve(self, request_id: str, accept: str) -> Response:
        promise = self._promises.get(request_id)
        if promise is None or self.forget_promises or self._forgets(promise):
            self.forget_promises = False
            self._promises.pop(request_id, None)
            return encode_error(410, "no such promise")
        self.polls_open += 1
        try:
            async with asyncio.timeout(_LONG_POLL if self.queue is None else 1.0):
                await promise.done.wait()
        except TimeoutError:
            return encode_try_again(request_id, *(self.queue or ("active", None)))
        finally:
            self.polls_open -= 1
        if promise.error is not None:
            return encode_failure(promise.error, promise.category)
        return encode_result(promise.route, promise.result, accept)


def _key(route: Route, message: Any) -> tuple[Any, ...]:
    """What a re-sent request is recognised by (protocol appendix A.1, 6)."""
    owner = getattr(message, "model_id", None) or getattr(message, "sampling_session_id", None)
    if owner is not None and getattr(message, "seq_id", None) is not None:
        return owner, message.seq_id
    if getattr(message, "model_seq_id", None) is not None:
        return message.session_id, message.model_seq_id
    return route.name, owner, msgspec.json.encode(message)


def _result(route: Route, message: Any) -> Any:
    match route.name:
        case "create_model":
            return CreateModelResponse(model_id=f"{message.session_id}:train:{message.model_seq_id}")
        case "load_weights":
            return LoadWeightsResponse(path=message.path)
        case "unload_model":
            return UnloadModelResponse(model_id=message.model_id)
        case "forward" | "forward_backward":
            data = message.forward_backward_input.data
            outputs = [{"logprobs": _scores(datum, message.seq_id)} for datum in data]
            return ForwardBackwardOutput(
                "Scores", outputs, {"loss:sum": float(len(data)), "seq:max": float(message.seq_id)}
            )
        case "optim_step":
            return OptimStepResponse(metrics={"step:max": float(message.seq_id)})
        case "save_weights":
            return SaveWeightsResponse(path=f"tinker://{message.model_id}/weights/{message.path}")
        case "save_weights_for_sampler" if message.path is not None:
            return SaveWeightsForSamplerResponseInternal(
                path=f"tinker://{message.model_id}/sampler_weights/{message.path}"
            )
        case "save_weights_for_sampler":
            return SaveWeightsForSamplerResponseInternal(
                sampling_session_id=f"sess:sample:{message.sampling_session_seq_id}"
            )
        case _:
            tokens = np.arange(message.sampling_params.max_tokens or 4, dtype=np.int32) + message.seq_id % (1 << 30)
            sequence = SampledSequence("length", tokens_np=tokens, logprobs_np=np.zeros(len(tokens), np.float32))
            scored = np.full(message.prompt.length, np.nan, np.float32)
            scored[1:] = -1.0
            return SampleResponse([sequence] * message.num_samples, scored if message.prompt_logprobs else None)


def _scores(datum: Any, seq_id: int) -> TensorData:
    return TensorData.from_numpy(np.full(datum.model_input.length, float(seq_id), np.float32))
