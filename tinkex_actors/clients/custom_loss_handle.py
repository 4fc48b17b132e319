"""Losses that the server computes: traced, uploaded, and named by a handle (protocol 6.8)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, final

import msgspec

from tinkex_actors.clients.regularizers import LOSS_EXECUTOR, LOSS_NICENESS
from tinkex_actors.errors import ConfigError, InputError, LossError, RequestFailedError, UnsupportedByServerError
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import CreateCustomLossRequest, CustomLossGraph, CustomLossInput, Datum
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.clients.backbone import Backbone

__all__ = ["LossHandle", "create_custom_loss"]

_log = Logger("tinkex_actors.losses")


@final
class LossHandle:
    """A loss for ``forward_backward_custom``, made by ``ServiceClient.create_custom_loss``.

    Attributes:
        name: the function's.
        inputs: what it reads, ``logprobs`` first.
        session_id: the session that it belongs to.
        graph: what was traced; None where it could not be.
        loss_id: the server's name for it; None where it runs on the client.
        why: why it runs on the client; empty where it does not.
    """

    __slots__ = ("_fn", "graph", "inputs", "loss_id", "name", "session_id", "why")

    def __init__(
        self,
        fn: Callable[..., Any],
        inputs: Sequence[CustomLossInput],
        session_id: str,
        *,
        graph: CustomLossGraph | None = None,
        loss_id: str | None = None,
        why: str = "",
    ) -> None:
        self._fn = fn
        self.name = _name(fn)
        self.inputs = tuple(inputs)
        self.session_id = session_id
        self.graph = graph
        self.loss_id = loss_id
        self.why = why

    def check(self, data: Sequence[Datum], session_id: str | None) -> None:
        """Refuse data that lack an input or have it at another rank, and a client of another session.

        Raises:
            InputError: naming the datum and the input.
        """
        if session_id != self.session_id:
            raise InputError(
                f"custom loss {self.name} belongs to session {self.session_id}, this client to {session_id}. Create "
                "it once more with this session's ServiceClient."
            )
        for index, datum in enumerate(data):
            for one in self.inputs:
                key = "target_tokens" if one.name == "logprobs" else one.name
                if key not in datum.loss_fn_inputs:
                    given = ", ".join(sorted(datum.loss_fn_inputs)) or "nothing"
                    raise InputError(
                        f"datum {index}: loss_fn_inputs[{key!r}] is missing, which custom loss {self.name} reads; it "
                        f"has {given}."
                    )
                shape = list(datum.loss_fn_inputs[key].shape)
                if len(shape) != one.rank:
                    raise InputError(
                        f"datum {index}: loss_fn_inputs[{key!r}] has shape {shape}, and custom loss {self.name} "
                        f"declares {one.name} with rank {one.rank}."
                    )

    def __call__(self, data: Sequence[Any], logprobs: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
        """Compute it here: losses and ``:sum`` metrics summed over data, ``:mean`` metrics averaged."""
        total: Any = 0.0
        metrics: dict[str, Any] = {}
        for datum, row in zip(data, logprobs, strict=True):
            given = [
                row if one.name == "logprobs" else datum.loss_fn_inputs[one.name].to_numpy() for one in self.inputs
            ]
            loss, found = self._fn(*given)
            total = total + loss
            for key, value in found.items():
                metrics[key] = metrics.get(key, 0.0) + (value / len(data) if key.endswith(":mean") else value)
        return total, metrics

    def __repr__(self) -> str:
        where = f"on the client: {self.why}" if self.loss_id is None else self.loss_id
        return f"<LossHandle {self.name} {where}>"


def create_custom_loss(core: Backbone, fn: Callable[..., Any], input_ranks: Mapping[str, int]) -> ApiFuture[LossHandle]:
    """Begin to trace and to upload; see ``ServiceClient.create_custom_loss``."""
    if not callable(fn):
        raise InputError(f"create_custom_loss: expected a function, got {type(fn).__name__}.")
    if find_spec("jax") is None:
        raise ConfigError(
            "create_custom_loss traces losses with JAX, which is not installed. Run: pip install 'tinkex-actors[jax]'"
        )
    number = next(core.session.loss_numbers)
    name = _name(fn)

    async def run(future: ApiFuture[Any]) -> LossHandle:
        session_id = await core.session.ready()
        future.waits_for(f"{name} to be traced")
        inputs, graph, why = await core.system.blocking(
            _traced, fn, dict(input_ranks), executor=LOSS_EXECUTOR, niceness=LOSS_NICENESS
        )
        if graph is not None:
            _refuse_twice(core, number, name, inputs, graph)
        if not why and not core.session.flags.custom_loss_server_side:
            why = "this server runs no uploaded losses"
        loss_id = None
        if not why and graph is not None:
            future.waits_for("the server to take the loss")
            message = CreateCustomLossRequest(
                session_id=session_id, custom_loss_seq_id=number, name=name, inputs=inputs, graph=graph
            )
            loss_id, why = await _upload(core, future, message)
        if loss_id is None:
            _log.warning(
                "loss.on_the_client", loss=name, why=why, remedy="none is needed: the result is the same, more slowly"
            )
        return LossHandle(fn, inputs, session_id, graph=graph, loss_id=loss_id, why=why)

    return core.courier.send("create_custom_loss", run, loss=name, custom_loss_seq_id=number)


def _traced(
    fn: Callable[..., Any], input_ranks: dict[str, int]
) -> tuple[list[CustomLossInput], CustomLossGraph | None, str]:
    from tinkex_actors.losses.graphs.tracing import Untraceable, check_signature, trace_loss

    inputs = check_signature(fn, input_ranks)
    try:
        return inputs, trace_loss(fn, inputs), ""
    except Untraceable as error:
        return inputs, None, str(error)
    except LossError:
        raise


async def _upload(core: Backbone, future: ApiFuture[Any], message: CreateCustomLossRequest) -> tuple[str | None, str]:
    route = ROUTES["create_custom_loss"]
    key = f"{message.session_id}:loss:{message.custom_loss_seq_id}"
    try:
        promise = await core.link.exchange(route, message, idempotency_key=key)
        answer = await core.result_of(promise, route, future)
    except UnsupportedByServerError as error:
        return None, str(error)
    except RequestFailedError as error:
        if error.category != "user":
            raise
        return None, f"the server refused it: {error}"
    return answer.loss_id, ""


def _refuse_twice(
    core: Backbone, number: int, name: str, inputs: list[CustomLossInput], graph: CustomLossGraph
) -> None:
    digest = hashlib.sha256(msgspec.json.encode([inputs, graph])).hexdigest()
    owner = f"{name} (number {number})"
    # The errand of one call may run twice, and is then the same owner.
    earlier = core.session.uploaded_losses.setdefault(digest, owner)
    if earlier != owner:
        raise InputError(f"create_custom_loss: {name} is the same loss as {earlier} of this session. Use its handle.")


def _name(fn: object) -> str:
    return str(getattr(fn, "__name__", type(fn).__name__))
