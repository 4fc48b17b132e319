"""What exists on the server: training runs, checkpoints, sessions, samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.attribution import attributed
from tinkex_actors.clients.paths import checkpoint_path
from tinkex_actors.clients.rest.asking import ask, at_checkpoint, named
from tinkex_actors.clients.rest.downloads import download_checkpoint
from tinkex_actors.clients.rest.long_answers import export_trace, whoami
from tinkex_actors.clients.rest.pages import Pages, by_offset
from tinkex_actors.clients.rest.unpacking import DEFAULT_LIMITS
from tinkex_actors.errors import InputError, TinkerPathError
from tinkex_actors.types import (
    AssignSessionProjectRequest,
    CopyWeightsRequest,
    GetSessionRequest,
    GetTrainingRunRequest,
    ListCheckpointsRequest,
    ListSessionsRequest,
    ListTrainingRunsRequest,
    SetCheckpointTtlRequest,
    WeightsInfoRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from pathlib import Path

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.clients.backbone import Backbone
    from tinkex_actors.clients.rest.unpacking import ArchiveLimits
    from tinkex_actors.types import (
        AccessScope,
        Checkpoint,
        CheckpointArchiveUrlResponse,
        CheckpointsListResponse,
        ExternalWeightsUrlsResponse,
        GetSamplerResponse,
        GetServerCapabilitiesResponse,
        GetSessionResponse,
        ListSessionsResponse,
        SessionSearchRequest,
        SessionSearchResponse,
        SessionSummary,
        TrainingRun,
        TrainingRunsResponse,
        WeightsInfoResponse,
        WhoamiResponse,
    )

__all__ = ["RestClient"]


@attributed
class RestClient:
    """Asks about what exists, and changes it; needs no session. Made by ``ServiceClient.create_rest_client()``.

    Every ``get``, ``list`` and so on returns an :class:`~tinkex_actors.ApiFuture` at once. A request that fails on the
    way is sent again for up to five minutes (protocol 1.5). ``iter_*`` walk through all pages of a listing. Checkpoints
    are named by their paths, ``tinker://RUN/KIND/NAME``: what is none raises ``TinkerPathError`` at the call.
    """

    def __init__(self, core: Backbone) -> None:
        self._core = core

    # --- training runs -----------------------------------------------------------------------------------------------
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

    def iter_training_runs(
        self, access_scope: AccessScope = "owned", project_id: str | None = None, page_size: int = 100
    ) -> Pages[TrainingRun]:
        """All training runs, for ``async for``; arguments as :meth:`list_training_runs`."""

        async def page(limit: int, offset: int) -> tuple[list[TrainingRun], int | None]:
            answer = await self.list_training_runs(limit, offset, access_scope, project_id)
            return answer.training_runs, answer.cursor.total_count

        return by_offset(page_size, page)

    def get_training_run(self, training_run_id: str, access_scope: AccessScope = "owned") -> ApiFuture[TrainingRun]:
        """One training run, by the training client's ``model_id``."""
        query = GetTrainingRunRequest(access_scope=access_scope)
        return self._ask("get_training_run", query, path=_run(training_run_id))

    def get_training_run_by_tinker_path(
        self, tinker_path: str, access_scope: AccessScope = "owned"
    ) -> ApiFuture[TrainingRun]:
        """The training run that a checkpoint is of."""
        return self.get_training_run(at_checkpoint(tinker_path)["training_run_id"], access_scope)

    # --- checkpoints -------------------------------------------------------------------------------------------------
    def list_checkpoints(self, training_run_id: str) -> ApiFuture[CheckpointsListResponse]:
        """All checkpoints of one training run.

        Raises:
            InputError: an empty id.
        """
        return self._ask("list_checkpoints", path=_run(training_run_id))

    def list_user_checkpoints(self, limit: int = 100, offset: int = 0) -> ApiFuture[CheckpointsListResponse]:
        """A page of all checkpoints, newest first."""
        return self._ask("list_user_checkpoints", ListCheckpointsRequest(limit=limit, offset=offset))

    def iter_user_checkpoints(self, page_size: int = 1000) -> Pages[Checkpoint]:
        """All checkpoints, newest first, for ``async for``."""

        async def page(limit: int, offset: int) -> tuple[list[Checkpoint], int | None]:
            answer = await self.list_user_checkpoints(limit, offset)
            return answer.checkpoints, None if answer.cursor is None else answer.cursor.total_count

        return by_offset(page_size, page)

    def get_weights_info_by_tinker_path(self, tinker_path: str) -> ApiFuture[WeightsInfoResponse]:
        """Base model and adapter shape of a checkpoint.

        Raises:
            TinkerPathError: no address, as ``tinker://RUN/weights/NAME`` is one.
        """
        checkpoint_path(tinker_path)
        return self._ask("weights_info", WeightsInfoRequest(tinker_path=tinker_path))

    def delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> ApiFuture[None]:
        """Delete a checkpoint, for good.

        Args:
            training_run_id: the run.
            checkpoint_id: ``KIND/NAME``, as listings have it.
        """
        path = {**_run(training_run_id), "checkpoint_id": named("checkpoint_id", checkpoint_id)}
        return self._ask("delete_checkpoint", path=path)

    def delete_checkpoint_from_tinker_path(self, tinker_path: str) -> ApiFuture[None]:
        """Delete a checkpoint, for good."""
        return self._ask("delete_checkpoint", path=at_checkpoint(tinker_path))

    def publish_checkpoint_from_tinker_path(self, tinker_path: str) -> ApiFuture[None]:
        """Let everybody read a checkpoint. ``ConflictError`` (awaited) where everybody may already."""
        return self._ask("publish_checkpoint", path=at_checkpoint(tinker_path))

    def unpublish_checkpoint_from_tinker_path(self, tinker_path: str) -> ApiFuture[None]:
        """Take that back. ``ConflictError`` (awaited) where it was not public."""
        return self._ask("unpublish_checkpoint", path=at_checkpoint(tinker_path))

    def set_checkpoint_ttl_from_tinker_path(self, tinker_path: str, ttl_seconds: int | None) -> ApiFuture[None]:
        """Let a checkpoint expire so many seconds from now; None keeps it.

        Raises:
            InputError: not a whole number above 0. The server has limits of its own (the hosted one: an hour to ten
                years) and answers them with ``BadRequestError``.
        """
        if ttl_seconds is not None and (type(ttl_seconds) is not int or ttl_seconds < 1):
            raise InputError(f"ttl_seconds must be a whole number above 0, or None to keep it; got {ttl_seconds!r}.")
        body = SetCheckpointTtlRequest(ttl_seconds=ttl_seconds)
        return self._ask("set_checkpoint_ttl", body, path=at_checkpoint(tinker_path))

    def copy_weights(
        self,
        path: str,
        destination_project_id: str | None = None,
        *,
        ttl_seconds: int | None = None,
        weights_access_token: str | None = None,
    ) -> ApiFuture[str]:
        """Copy a checkpoint into a project; gives the copy's path.

        Args:
            path: the checkpoint.
            destination_project_id: the project; None takes the configuration's (``TINKER_PROJECT_ID``).
            ttl_seconds: how long to keep the copy; None keeps it.
            weights_access_token: of the account that owns the checkpoint, if it is another one. Travels as a header.

        Raises:
            InputError: no project.
        """
        checkpoint_path(path)
        project = destination_project_id or self._core.config.project_id
        if not project:
            raise InputError(
                "copy_weights: no project to copy to. Pass destination_project_id, or set TINKER_PROJECT_ID."
            )
        body = CopyWeightsRequest(
            source_path=path,
            destination_project_id=project,
            ttl_seconds=ttl_seconds,
            weights_access_token=weights_access_token,
        )
        return ask(self._core, "copy_weights", body, finish=lambda answer: answer.tinker_path)

    # --- files -------------------------------------------------------------------------------------------------------
    def get_external_weights_urls(self, tinker_path: str) -> ApiFuture[ExternalWeightsUrlsResponse]:
        """Links to the files of an external checkpoint, made by ``save_weights_external``; good for about an hour."""
        path = at_checkpoint(tinker_path)
        if not path["checkpoint_id"].startswith("external_weights/"):
            raise TinkerPathError(
                f"get_external_weights_urls: {tinker_path!r} is of another kind; expected "
                "tinker://RUN/external_weights/NAME, as save_weights_external gives it. Other checkpoints come as one "
                "archive: download_checkpoint."
            )
        return self._ask("get_external_weights_urls", path=path)

    def get_checkpoint_archive_url_from_tinker_path(self, tinker_path: str) -> ApiFuture[CheckpointArchiveUrlResponse]:
        """A link to a checkpoint's files in one archive; good for about an hour. Servers may need minutes to build it.

        ``UnsupportedByServerError`` (awaited) where the server has no archives any more; see
        :meth:`get_external_weights_urls`.
        """
        return self._ask("get_checkpoint_archive_url", path=at_checkpoint(tinker_path))

    def download_checkpoint(
        self,
        tinker_path: str,
        folder: str | PathLike[str],
        *,
        overwrite: bool = False,
        limits: ArchiveLimits = DEFAULT_LIMITS,
        on_progress: Callable[[int, int | None], object] | None = None,
    ) -> ApiFuture[Path]:
        """Download a checkpoint's files; gives the folder they are in, ``folder/RUN_KIND_NAME``.

        What is there already of an interrupted download is kept and gone on with. The files appear all at once, when
        everything has been read and looked at: an archive that would write elsewhere, or that holds links or devices,
        is refused. Cancelling the future stops it and keeps what has been read. Of two downloads into one folder, here
        or in another process, one waits for the other.

        Args:
            tinker_path: the checkpoint, of any kind; external ones come file by file, others as an archive.
            folder: where to put it; made if need be.
            overwrite: replace a folder that is there, once its successor is complete.
            limits: the most that may arrive.
            on_progress: called on the loop with the bytes that have arrived and, if known, their number in all.

        Raises:
            InputError: (awaited) the folder is there already (without ``overwrite``), or cannot be written: no folder,
                no room on the disk.
            APIResponseValidationError: (awaited) an archive beyond the limits, or one that is not safe to unpack.
        """
        return download_checkpoint(
            self._core, tinker_path, folder, overwrite=overwrite, limits=limits, on_progress=on_progress
        )

    # --- sessions and samplers ---------------------------------------------------------------------------------------
    def list_sessions(
        self, limit: int = 20, offset: int = 0, access_scope: AccessScope = "owned"
    ) -> ApiFuture[ListSessionsResponse]:
        """A page of session ids; arguments as :meth:`list_training_runs`."""
        return self._ask("list_sessions", ListSessionsRequest(limit=limit, offset=offset, access_scope=access_scope))

    def iter_sessions(self, access_scope: AccessScope = "owned", page_size: int = 100) -> Pages[str]:
        """All session ids, for ``async for``."""

        async def page(limit: int, offset: int) -> tuple[list[str], int | None]:
            return (await self.list_sessions(limit, offset, access_scope)).sessions, None

        return by_offset(page_size, page)

    def get_session(self, session_id: str, access_scope: AccessScope = "owned") -> ApiFuture[GetSessionResponse]:
        """The training runs and samplers of a session."""
        return self._ask("get_session", GetSessionRequest(access_scope=access_scope), path=_session(session_id))

    def search_sessions(self, request: SessionSearchRequest) -> ApiFuture[SessionSearchResponse]:
        """A page of the sessions that match; ``request.cursor`` is the last answer's ``next_cursor``."""
        return self._ask("search_sessions", request)

    def iter_session_search(self, request: SessionSearchRequest) -> Pages[SessionSummary]:
        """All sessions that match, for ``async for``."""

        async def fetch(cursor: Any) -> tuple[list[SessionSummary], Any]:
            asked = request if cursor is None else msgspec.structs.replace(request, cursor=cursor)
            answer = await self.search_sessions(asked)
            return answer.sessions, answer.next_cursor

        return Pages(fetch)

    def assign_session_project(self, session_id: str, project_id: str) -> ApiFuture[None]:
        """Move a session into a project; there is no way out of one."""
        body = AssignSessionProjectRequest(project_id=named("project_id", project_id))
        return self._ask("assign_session_project", body, path=_session(session_id))

    def export_session_trace(self, session_id: str, timeout: float = 600.0) -> ApiFuture[str]:
        """Have the server write a session's trace; gives a link to it, good for about an hour.

        Args:
            session_id: the session.
            timeout: seconds to wait for the server to be done; it is asked every 5 (protocol 8.1).

        Raises:
            APITimeoutError: (awaited) not done in time.
            RequestFailedError: (awaited) the server could not do it.
        """
        return export_trace(self._core, named("session_id", session_id), timeout)

    def get_sampler(self, sampler_id: str) -> ApiFuture[GetSamplerResponse]:
        """What a sampling session samples from."""
        return self._ask("get_sampler", path={"sampler_id": named("sampler_id", sampler_id)})

    def whoami(self) -> ApiFuture[WhoamiResponse]:
        """Who the credential belongs to.

        Read from the claims of the token that a key was exchanged for, unverified, as the official client does. A plain
        API key says nothing: ``CredentialsError`` (awaited).
        """
        return whoami(self._core)

    def _ask(self, route: str, message: Any = None, path: dict[str, str] | None = None) -> ApiFuture[Any]:
        return ask(self._core, route, message, path=path)


def _run(training_run_id: str) -> dict[str, str]:
    return {"training_run_id": named("training_run_id", training_run_id)}


def _session(session_id: str) -> dict[str, str]:
    return {"session_id": named("session_id", session_id)}
