"""Sessions, the models and the samplers they own (protocol 0.3, 5.4, 5.5).

A session lives while its client shows signs of life: a heartbeat or any other request. After :data:`SESSION_PATIENCE`
seconds of silence, or when the client finishes it, it ends with everything it owns; from then on its name answers 410.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec

from tinkex_actors.engine.service.state.ordering import Ordering
from tinkex_actors.errors import GoneError, InputError, NotFoundError
from tinkex_actors.types import SessionActive, SessionCancelled

if TYPE_CHECKING:
    from datetime import datetime

    from tinkex_actors.engine.store.store import RunRecord
    from tinkex_actors.errors import APIStatusError
    from tinkex_actors.types import SessionStatus

__all__ = ["SESSION_PATIENCE", "Model", "Sampler", "Session", "Sessions"]

# The official client warns after 120 s without an answered beat; a server ends a session clearly later (A.1 #21).
SESSION_PATIENCE = 300.0

# Ended sessions that can still be looked at, and told from names that never were.
_REMEMBERED_ENDED = 10_000

# Operations of one session that its trace shows, the latest ones.
_TRACED_OPERATIONS = 2_000


class Session(msgspec.Struct, kw_only=True):
    """One client's session.

    Attributes:
        session_id: its name; unique across engines and processes, because checkpoints outlive both.
        last_sign: when the client was last heard of, on the loop's clock.
        created_at: wall-clock time of creation.
        model_ids: its models, in the order of their creation.
        sampler_ids: its sampling sessions.
        custom_losses: the losses that were uploaded for it, by id, as the numeric core has them.
        status: whether it lives, or how it ended.
        ended_because: the same in words; empty while it lives.
        trace: its latest operations, as trace events (the Chrome trace format).
    """

    session_id: str
    last_sign: float
    created_at: datetime
    tags: list[str] = msgspec.field(default_factory=list)
    user_metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    project_id: str | None = None
    display_name: str | None = None
    model_ids: list[str] = msgspec.field(default_factory=list)
    sampler_ids: list[str] = msgspec.field(default_factory=list)
    custom_losses: dict[str, Any] = msgspec.field(default_factory=dict)
    status: SessionStatus = SessionActive()
    ended_because: str = ""
    trace: deque[dict[str, Any]] = msgspec.field(default_factory=lambda: deque(maxlen=_TRACED_OPERATIONS))


class Model(msgspec.Struct, kw_only=True, eq=False):
    """One model in training.

    Attributes:
        model_id: ``{session_id}:train:{model_seq_id}``; also the id of the training run.
        ordering: in which order its requests run.
        adapter: the numeric core's LoRA state; None until the creation has run.
        rejections: numbers completed by a refusal, and the refusal, for whoever sends the number again.
        run: its record in the store; None until a creation from a checkpoint has read it.
        published: the weights that its ``inflight`` samplers use (protocol 2.9).
        failure: why the model cannot be used, once its creation has failed or it was unloaded.
    """

    model_id: str
    session_id: str
    base_model: str
    created_at: datetime
    last_request_at: datetime
    user_metadata: dict[str, Any] | None = None
    ordering: Ordering[Any] = msgspec.field(default_factory=Ordering)
    rejections: dict[int, APIStatusError] = msgspec.field(default_factory=dict)
    run: RunRecord | None = None
    adapter: Any = None
    published: Any = None
    failure: str | None = None

    def ready(self) -> Any:
        """Return the adapter; on the compute thread, where everything before has run.

        Raises:
            InputError: the model's creation has failed, or it was unloaded.
        """
        if self.adapter is None:
            raise InputError(f"model {self.model_id} cannot be used: {self.failure}. Create a new one.")
        return self.adapter


class Sampler(msgspec.Struct, kw_only=True, eq=False):
    """One sampling session: fixed weights to sample from.

    Attributes:
        sampling_session_id: ``{session_id}:sample:{sampling_session_seq_id}``.
        model_path: the checkpoint it serves, or None for the base model and for unnamed saves.
        adapter: the LoRA state it samples with; None for the base model, and for a checkpoint not read yet.
        loaded: whether ``adapter`` is what it should be. Only the compute thread writes these two
            once the sampler is made.
        follows: the model whose published weights an ``inflight`` sampler uses.
        clones: numbers given to clients that joined it (protocol 1.7.20).
    """

    sampling_session_id: str
    session_id: str
    base_model: str
    model_path: str | None = None
    adapter: Any = None
    loaded: bool = False
    follows: Model | None = None
    clones: int = 0


class Sessions:
    """The living sessions of an engine, and the ended ones of this process."""

    def __init__(self, patience: float = SESSION_PATIENCE) -> None:
        self._patience = patience
        self._living: dict[str, Session] = {}
        self._ended: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._living)

    def create(self, now: float, created_at: datetime, **fields: Any) -> Session:
        """Open a session under a new name."""
        session = Session(session_id=f"local-{uuid4().hex}", last_sign=now, created_at=created_at, **fields)
        self._living[session.session_id] = session
        return session

    def touch(self, session_id: str, now: float) -> Session:
        """Return the session and note the sign of life.

        Raises:
            GoneError: it has ended.
            NotFoundError: there never was one.
        """
        session = self.find(session_id)
        if session.ended_because:
            raise GoneError(
                f"Session {session_id} has ended: {session.ended_because}. Create a new session (a new ServiceClient).",
                status_code=410,
            )
        session.last_sign = max(now, session.last_sign)
        return session

    def find(self, session_id: str) -> Session:
        """Return a session of this process, ended or not, without counting it as a sign of life.

        Raises:
            NotFoundError: there never was one.
        """
        session = self._living.get(session_id) or self._ended.get(session_id)
        if session is None:
            raise NotFoundError(
                f"No session {session_id!r} on this engine. It may belong to an earlier process; create a new one.",
                status_code=404,
            )
        return session

    def newest_first(self) -> list[Session]:
        """Return all sessions of this process, ended or not."""
        every = [*self._living.values(), *self._ended.values()]
        return sorted(every, key=lambda session: (session.created_at, session.session_id), reverse=True)

    def ended(self, session_id: str) -> bool:
        """Whether a session of this name has lived here and ended."""
        return session_id in self._ended

    def end(self, session_id: str, reason: str, status: SessionStatus | None = None) -> Session | None:
        """End a session; return it, or None when it does not live. Without a status it counts as cancelled."""
        session = self._living.pop(session_id, None)
        if session is not None:
            session.ended_because = reason
            session.status = SessionCancelled(detail=reason) if status is None else status
            self._ended[session_id] = session
            while len(self._ended) > _REMEMBERED_ENDED:
                self._ended.popitem(last=False)
        return session

    def silent(self, now: float) -> list[str]:
        """Return the sessions that have shown no sign of life for longer than the patience."""
        return [name for name, session in self._living.items() if now - session.last_sign > self._patience]
