"""Requests that are an answer to a question: sent through the courier, retried as the link retries."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from tinkex_actors.errors import InputError
from tinkex_actors.types import ParsedCheckpointTinkerPath
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.clients.backbone import Backbone

__all__ = ["ask", "at_checkpoint", "named"]


def ask(
    core: Backbone,
    route: str,
    message: Any = None,
    *,
    path: Mapping[str, str] | None = None,
    finish: Callable[[Any], Any] | None = None,
) -> ApiFuture[Any]:
    """Send one request and return its future.

    Args:
        core: the service.
        route: the endpoint's name in ``ROUTES``.
        message: body or query.
        path: the ids in the endpoint's path.
        finish: makes the result of the answer; what it raises fails the future.
    """
    core.use()
    # Taken at the call: a restarted courier asks again under the same key.
    key = str(uuid.uuid4())

    async def run(_: ApiFuture[Any]) -> Any:
        answer = await core.link.exchange(ROUTES[route], message, path=path, idempotency_key=key)
        return answer if finish is None else finish(answer)

    return core.courier.send(route, run, **dict(path or {}))


def named(name: str, value: str) -> str:
    """Return an id that is going to be part of a request's path.

    Raises:
        InputError: it is empty, or no text.
    """
    if not isinstance(value, str) or not value:
        raise InputError(f"{name} must be an id, a text such as the training client's model_id; got {value!r}.")
    return value


def at_checkpoint(tinker_path: str) -> dict[str, str]:
    """Return the ids of a checkpoint as the REST endpoints have them in their paths.

    Raises:
        TinkerPathError: not ``tinker://RUN/KIND/NAME``.
    """
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(tinker_path)
    return {"training_run_id": parsed.training_run_id, "checkpoint_id": parsed.checkpoint_id}
