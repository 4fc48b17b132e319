"""What the layers above the clients need of them, and users do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.clients.creation import training_client
from tinkex_actors.errors import GoneError, NotFoundError, TinkexError
from tinkex_actors.machines.retry import NO_RETRY
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import SessionHeartbeatRequest
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from tinkex_actors.clients.backbone import Backbone
    from tinkex_actors.clients.service import ServiceClient
    from tinkex_actors.clients.training import TrainingClient

__all__ = ["attach_model", "backbone_of", "is_broken", "living_session", "next_number"]


_log = Logger("tinkex_actors.session")


def backbone_of(service: ServiceClient) -> Backbone:
    """Return what a service's clients stand on; starts the service if need be."""
    return service._use()


async def attach_model(core: Backbone, model_id: str, next_seq: int) -> TrainingClient:
    """Return a client for a model that another client made, perhaps in another process, and that still lives.

    Args:
        core: the service.
        model_id: the model.
        next_seq: the number for its next request. Numbers that the server has taken already are answered with what
            they were answered with before, and run only once (protocol 6.2, appendix A.1 #6).

    Raises:
        NotFoundError: the server does not know the model.
        GoneError: its session has ended.
        UnsupportedByServerError: the server describes no models.
    """
    client = await training_client(core, model_id, None)
    # Its samplers belong to its own session, where another client has counted.
    core.session.count_far_from_others()
    core.trainer(model_id).turns.next_seq = next_seq
    return client


async def living_session(core: Backbone) -> None:
    """See that the service has a session that lives: another one where the server has ended or forgotten its own.

    A session that was joined is others' to renew.
    """
    session_id = await core.session.ready()
    try:
        await core.link.exchange(
            ROUTES["session_heartbeat"], SessionHeartbeatRequest(session_id=session_id), policy=NO_RETRY
        )
    except (NotFoundError, GoneError) as error:
        if core.session.joins is None and core.session.session_id == session_id:
            _log.warning("session.renewed", session_id=session_id, reason=str(error))
            core.session.renew()
            await core.session.ready()
    except TinkexError:
        pass  # whatever is asked next will tell


def is_broken(training: TrainingClient) -> bool:
    """Whether a request of the model was lost, so that nothing more can be applied to it in order."""
    return training._desk.turns.broken_at is not None


def next_number(training: TrainingClient) -> int:
    """Return the number that the model's next request will have."""
    return training._desk.turns.next_seq
