"""Everything one engine knows. The actor that drives it can crash and come back; this stays (architecture 3)."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec

from tinkex_actors.engine.models.place import place_of
from tinkex_actors.engine.service.downloads import Downloads
from tinkex_actors.engine.service.naming import names_of
from tinkex_actors.engine.service.state.completions import Completions
from tinkex_actors.engine.service.state.jobs import Job, JobQueue, SampleJob, blame
from tinkex_actors.engine.service.state.promises import Promise, Promises
from tinkex_actors.engine.service.state.sessions import Model, Sampler, Session, Sessions
from tinkex_actors.engine.service.tokens import Tokens
from tinkex_actors.engine.store.store import Store
from tinkex_actors.errors import (
    APIStatusError,
    BadRequestError,
    ConfigError,
    ConflictError,
    GoneError,
    ModelNotInstalledError,
    NotFoundError,
)
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import UntypedAPIFuture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tinkex_actors.config import Config
    from tinkex_actors.engine.models.catalog import ModelRecord
    from tinkex_actors.engine.service.call import Call
    from tinkex_actors.runtime import ActorSystem
    from tinkex_actors.tokenizers import Tokenizer
    from tinkex_actors.types import SessionStatus

__all__ = ["EngineCell"]

P = ParamSpec("P")
T = TypeVar("T")


_CLOSED = "the engine was closed before the request ran; open a new client and load the last checkpoint"

# Samples that share the compute thread's attention; there are rows for a quarter of them, and each holds little else.
_MOST_DECODED = 64

_log = Logger("tinkex_actors.engine")


class EngineCell:
    """The state of one engine, and the changes to it. All methods run on the loop, unless they say otherwise.

    Args:
        asked: the base model: a name of the catalogue, or the path of a folder.
        system: clock, seeded generator and executors.
        config: where the store and the cache are.

    Attributes:
        leases: how many transports use the engine.
        closing: whether the last of them has gone, so that nobody may join any more.
        stopped: whether it will compute no more.
        telemetry_events: how many events of each kind clients have sent.
    """

    def __init__(self, asked: str, *, system: ActorSystem, config: Config) -> None:
        place = place_of(asked)
        self.names = names_of(asked)
        self.asked = asked
        self.name = place.name
        self.system = system
        self.cache_dir: Path = config.cache_dir
        self.store = Store(config.engine_store / place.store_name)
        self.sessions = Sessions()
        self.models: dict[str, Model] = {}
        self.samplers: dict[str, Sampler] = {}
        self.jobs = JobQueue()
        self.completions = Completions()
        self.promises = Promises(settled=self.completions.add)
        self.downloads = Downloads(f"local://{asked}", self.wall_clock, self.on_disk)
        self.tokens = Tokens()
        self.telemetry_events: Counter[str] = Counter()
        self.leases = 0
        self.closing = False
        self.stopped = False
        # The numeric core, made by the compute thread with the first job; nobody else touches it.
        self._core: Any = None

    # --- clocks and threads ----------------------------------------------------------------------------------------
    def now(self) -> float:
        """The loop's clock, in seconds."""
        return self.system.now()

    def wall_clock(self) -> datetime:
        """The time of day, UTC."""
        return datetime.now(UTC)

    async def on_disk(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` on the thread that reads and writes the store."""
        return await self.system.blocking(lambda: work(*args, **kwargs), executor="engine-store", workers=1)

    def load_core(self) -> Any:
        """Return the numeric core, loading it first if need be. Compute thread only: this is where JAX is imported.

        Raises:
            ConfigError: no such model, or its weights are not on this machine or cannot be read.
        """
        if self._core is None:
            from tinkex_actors.engine.service.compute import Core

            try:
                self._core = Core.load(self.asked, self.cache_dir)
            except OSError as error:
                raise ConfigError(f"model {self.asked}: its files cannot be read ({error}).") from error
        return self._core

    async def tokenizer(self) -> Tokenizer:
        """Return the model's tokenizer, loading the model if it is not."""
        if self._core is None:
            await self.system.blocking(self.load_core, executor="engine", workers=1)
        tokenizer: Tokenizer = self._core.tokenizer
        return tokenizer

    # --- the base model --------------------------------------------------------------------------------------------
    async def catalogue_record(self) -> ModelRecord:
        """Return what is known of the engine's model without loading it.

        Raises:
            ConfigError: there is no such model, or the engine cannot run it.
        """
        return await self.on_disk(_describe, self.asked, self.cache_dir)

    async def check_usable(self) -> None:
        """Refuse an engine that could never compute.

        Raises:
            ConfigError: no such model, or packages that compute are not installed.
            ModelNotInstalledError: its weights are not on this machine.
        """
        record = await self.catalogue_record()
        if missing := await self.on_disk(_missing_packages):
            raise ConfigError(
                f"local://{self.asked} needs {' and '.join(missing)}, which the plain package does not bring. "
                "Run: pip install 'tinkex-actors[local]'"
            )
        if not record.installed:
            raise ModelNotInstalledError(f"The weights of {self.name} are not on this machine; {record.where}")

    def check_base_model(self, asked: str) -> None:
        """Refuse a request for a model this engine does not have.

        Raises:
            BadRequestError: with the name it has.
        """
        if not self.names.accepts(asked):
            raise BadRequestError(
                f"base_model {asked!r} is not on this engine; it has {self.name!r} only. Ask for that, or connect to "
                f"an engine that has {asked!r}.",
                status_code=400,
            )

    # --- finding things --------------------------------------------------------------------------------------------
    def session(self, session_id: str) -> Session:
        """Return a living session and count the request as its sign of life; else raise 404 or 410."""
        return self.sessions.touch(session_id, self.now())

    def model(self, model_id: str) -> Model:
        """Return a model for a request that uses it; else raise 404 or 410."""
        model = self.models.get(model_id)
        session_id = model.session_id if model else model_id.rpartition(":train:")[0]
        if session_id:
            self.session(session_id)
        if model is None:
            raise NotFoundError(f"No model {model_id!r} on this engine. Create it first.", status_code=404)
        if model.failure is not None:
            raise GoneError(f"Model {model_id} cannot be used: {model.failure}. Create a new one.", status_code=410)
        model.last_request_at = self.wall_clock()
        return model

    def sampler(self, sampling_session_id: str) -> Sampler:
        """Return a sampling session for a request that uses it; else raise 404 or 410."""
        sampler = self.samplers.get(sampling_session_id)
        session_id = sampler.session_id if sampler else sampling_session_id.rpartition(":sample:")[0]
        if session_id:
            self.session(session_id)
        if sampler is None:
            raise NotFoundError(
                f"No sampling session {sampling_session_id!r} on this engine. Create it first.", status_code=404
            )
        return sampler

    # --- promises --------------------------------------------------------------------------------------------------
    def repeated(self, request_id: str, call: Call, *, digest: bytes | None = None) -> bool:
        """Return whether the request came before and was answered with the promise of this id.

        Raises:
            ConflictError: strict, and the number was taken by a different request.
        """
        promise = self.promises.find(request_id)
        digest = call.digest if digest is None else digest
        if promise is not None and call.options.strict and digest and promise.digest not in (b"", digest):
            raise ConflictError(
                f"{request_id}: the number was taken by a request with other content. Use a number once.",
                status_code=409,
            )
        return self.promises.known(request_id)

    def promise(self, request_id: str, call: Call, session_id: str, **fields: Any) -> Promise:
        """Make and register the promise that answers a call."""
        return self.promises.add(Promise(request_id, call.route.name, session_id, **{"digest": call.digest} | fields))

    def in_order(
        self,
        call: Call,
        model: Model,
        compute: Callable[[Any, Job], Any],
        commit: Callable[[Any], Any],
        *,
        digest: bytes | None = None,
    ) -> UntypedAPIFuture:
        """Take a training request under its number and answer its promise; it runs when its turn comes.

        A number that was taken before is answered with the same promise, and its request does not run again.

        Args:
            call: the request; its message has a ``seq_id``.
            model: the model it is for.
            compute: see :class:`Job`.
            commit: see :class:`Job`.
            digest: what tells its content from others', where that is not the whole body.

        Raises:
            BadRequestError: the number is not a number, or was given up on after a hole.
            APIStatusError: the rejection that completed the number, again.
        """
        ordering = model.ordering
        seq_id = call.message.seq_id
        seq = ordering.take_number() if seq_id is None else seq_id
        request_id = f"{model.model_id}:{seq}"
        if seq < 1:
            raise BadRequestError(f"seq_id: expected 1 or more, got {seq} (number 0 is the creation).", status_code=400)
        digest = call.digest if digest is None else digest
        if not self.repeated(request_id, call, digest=digest):
            if rejection := model.rejections.get(seq):
                raise rejection
            if ordering.passed(seq):
                raise BadRequestError(
                    f"{request_id}: number {seq} was given up on because it came too late; the model goes on with "
                    f"{ordering.next_seq}. Reload the last checkpoint and go on from there.",
                    status_code=400,
                )
            promise = self.promise(request_id, call, model.session_id, model_id=model.model_id, digest=digest)
            for job in ordering.arrive(seq, Job(promise, compute, commit), self.now()):
                self.enqueue(job)
        return UntypedAPIFuture(request_id=request_id, model_id=model.model_id)

    def reject(self, model_id: str, seq_id: int | None, error: APIStatusError) -> None:
        """Complete a number by its rejection, so that later ones do not wait for it (A.1 #7)."""
        model = self.models.get(model_id)
        if model is None or seq_id is None or model.ordering.passed(seq_id):
            return
        model.rejections[seq_id] = error
        for job in model.ordering.reject(seq_id, self.now()):
            self.enqueue(job)

    def enqueue(self, job: Job) -> None:
        """Let a job wait for the compute thread; in a stopped engine it fails at once."""
        if self.stopped:
            self.promises.fail(job.promise, _CLOSED, "server")
        else:
            self.jobs.put(job)

    # --- what the actor drives ---------------------------------------------------------------------------------------
    def admit(self) -> list[SampleJob]:
        """Take out the samples that can be decoded beside those that are."""
        return self.jobs.admit(_MOST_DECODED - len(self.jobs.decoding))

    def decode(self, admitted: list[SampleJob]) -> None:
        """Decode a chunk for some of the samples, the new ones included. Compute thread only."""
        try:
            core = self.load_core()
        except BaseException as error:
            for job in admitted:
                job.fail(error)
        else:
            core.decode(admitted)

    def settle_samples(self) -> None:
        """Tell the samples' readers how far they got, and settle those that are over."""
        for job in list(self.jobs.decoding):
            if job.progress is not None:
                job.progress(job)
            if job.finished:
                del self.jobs.decoding[job]
                self.settle(job)

    def settle(self, job: Job) -> None:
        """Commit a finished job and settle its promise."""
        if self.jobs.running is job:
            self.jobs.running = None
        self._trace(job)
        error = job.error
        if error is None:
            try:
                result = job.commit(job.value)
            except Exception as failed:
                error = failed
            else:
                self.promises.resolve(job.promise, result, size_of(result))
                return
        category = blame(error)
        if category == "server" and not job.cancelled:
            _log.error("engine.operation_failed", request_id=job.promise.request_id, exc_info=error)
        text = str(error) if isinstance(error, Exception) and str(error) else repr(error)
        if job.undo is not None:
            job.undo(text)
        self.promises.fail(job.promise, text, category)

    def _trace(self, job: Job) -> None:
        """Note in the session's trace when an operation ran, and for how long it had waited."""
        with contextlib.suppress(NotFoundError):
            session = self.sessions.find(job.promise.session_id)
            session.trace.append(
                {
                    "name": job.promise.route,
                    "ph": "X",
                    "ts": round(job.started_at * 1e6),
                    "dur": round((job.finished_at - job.started_at) * 1e6),
                    "pid": 1,
                    "tid": job.promise.model_id or "sampling",
                    "args": {
                        "request_id": job.promise.request_id,
                        "waited_s": round(job.started_at - job.made_at, 6),
                        "failed": job.error is not None,
                    },
                }
            )

    def sweep(self) -> None:
        """Give up on holes and on silent sessions whose time has come."""
        now = self.now()
        for model in list(self.models.values()):
            if abandoned := model.ordering.expire(now):
                for job in abandoned.items:
                    self.promises.fail(
                        job.promise,
                        f"request {abandoned.missing} of {model.model_id} never arrived, so this later one could not "
                        "run in order. Reload the last checkpoint and go on from there.",
                        "user",
                    )
        for session_id in self.sessions.silent(now):
            self.end_session(session_id, "its client was not heard of for 300 s")

    def end_session(self, session_id: str, reason: str, status: SessionStatus | None = None) -> None:
        """End a session and everything it owns. Unknown sessions are ignored; without a status it is cancelled."""
        session = self.sessions.end(session_id, reason, status)
        if session is None:
            return
        self.jobs.cancel(session_id)
        for model_id in session.model_ids:
            self.models.pop(model_id, None)
        for sampler_id in session.sampler_ids:
            self.samplers.pop(sampler_id, None)
            self.completions.forget(sampler_id)
        self.promises.end_session(session_id)
        _log.info("session.ended", session_id=session_id, reason=reason)

    def stop(self) -> None:
        """End everything: pending promises fail, and the running computation is told to stop. Idempotent."""
        self.stopped = True
        self.jobs.cancel()
        for promise in self.promises.pending():
            self.promises.fail(promise, _CLOSED, "server")


def _describe(asked: str, cache_dir: Path) -> ModelRecord:
    # The import reads files too, and so belongs on the thread.
    from tinkex_actors.engine.models.catalog import describe

    return describe(asked, cache_dir=cache_dir)


def _missing_packages() -> list[str]:
    """Those of the extra ``local`` without which nothing can be computed. Looks for them and imports none."""
    return [name for name in ("jax", "safetensors") if importlib.util.find_spec(name) is None]


def size_of(result: Any) -> int:
    """Return about how many bytes of memory a result holds: its arrays, and a little for everything else."""
    total = sys.getsizeof(result)
    stack = [result]
    while stack:
        found = stack.pop()
        if hasattr(found, "nbytes"):
            total += found.nbytes
        elif hasattr(found, "values_np"):
            total += found.values_np.nbytes
        elif isinstance(found, msgspec.Struct):
            stack.extend(getattr(found, name) for name in found.__struct_fields__)
        elif isinstance(found, dict):
            stack.extend(found.values())
        elif isinstance(found, list):
            stack.extend(found)
    return total
