"""Training runs and checkpoints, as listings."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Literal

from tinkex_actors.clients.paths import checkpoint_path
from tinkex_actors.errors import InputError
from tinkex_actors.types import (
    CheckpointsListResponse,
    GetServerCapabilitiesResponse,
    GetTrainingRunRequest,
    ListCheckpointsRequest,
    ListTrainingRunsRequest,
    ParsedCheckpointTinkerPath,
    TrainingRun,
    TrainingRunsResponse,
    WeightsInfoRequest,
    WeightsInfoResponse,
)
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.clients.backbone import Backbone

__all__ = ["RestClient"]

AccessScope = Literal["owned", "accessible"]


class RestClient:
    """Asks about what exists; needs no session. Made by ``ServiceClient.create_rest_client()``.

    Every method returns at once. A request that fails on the way is sent again for up to five minutes (protocol 1.5).
    """

    def __init__(self, core: Backbone) -> None:
        self._core = core

    def get_server_capabilities(self) -> ApiFuture[GetServerCapabilitiesResponse]:
        """The models the server has."""
        return self._ask("get_server_capabilities")

    def list_training_runs(
        self, limit: int = 20, offset: int = 0, access_scope: AccessScope = "owned", project_id: str | None = None
    ) -> ApiFuture[TrainingRunsResponse]:
        """A page of training runs.

        Args:
            limit: runs in the page.
            offset: runs to skip.
            access_scope: ``owned``, or ``accessible`` for those of others too.
            project_id: only of this project.
        """
        query = ListTrainingRunsRequest(limit=limit, offset=offset, access_scope=access_scope, project_id=project_id)
        return self._ask("list_training_runs", query)

    def get_training_run(self, training_run_id: str, access_scope: AccessScope = "owned") -> ApiFuture[TrainingRun]:
        """One training run, by the training client's ``model_id``."""
        return self._ask(
            "get_training_run",
            GetTrainingRunRequest(access_scope=access_scope),
            path={"training_run_id": _named("training_run_id", training_run_id)},
        )

    def list_checkpoints(self, training_run_id: str) -> ApiFuture[CheckpointsListResponse]:
        """All checkpoints of one training run.

        Raises:
            InputError: an empty id.
        """
        return self._ask("list_checkpoints", path={"training_run_id": _named("training_run_id", training_run_id)})

    def list_user_checkpoints(self, limit: int = 100, offset: int = 0) -> ApiFuture[CheckpointsListResponse]:
        """A page of all checkpoints, newest first."""
        return self._ask("list_user_checkpoints", ListCheckpointsRequest(limit=limit, offset=offset))

    def get_weights_info_by_tinker_path(self, tinker_path: str) -> ApiFuture[WeightsInfoResponse]:
        """Base model and adapter shape of a checkpoint.

        Raises:
            TinkerPathError: no address, as ``tinker://RUN/weights/NAME`` is one.
        """
        checkpoint_path(tinker_path)
        return self._ask("weights_info", WeightsInfoRequest(tinker_path=tinker_path))

    def delete_checkpoint_from_tinker_path(self, tinker_path: str) -> ApiFuture[None]:
        """Delete a checkpoint, for good.

        Raises:
            TinkerPathError: not a ``tinker://`` path.
        """
        parsed = ParsedCheckpointTinkerPath.from_tinker_path(tinker_path)
        return self._ask(
            "delete_checkpoint",
            path={"training_run_id": parsed.training_run_id, "checkpoint_id": parsed.checkpoint_id},
        )

    def _ask(self, route: str, message: Any = None, path: Mapping[str, str] | None = None) -> ApiFuture[Any]:
        core = self._core.use()
        key = f"{route}:{uuid.uuid4()}"

        async def run(_: ApiFuture[Any]) -> Any:
            return await core.link.exchange(ROUTES[route], message, path=path, idempotency_key=key)

        return core.courier.send(route, run, **dict(path or {}))


def _named(name: str, value: str) -> str:
    if not value:
        raise InputError(f"{name} is empty; expected an id such as the training client's model_id.")
    return value
