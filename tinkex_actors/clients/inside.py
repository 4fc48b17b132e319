"""What the layers above the clients need of them, and users do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.clients.creation import training_client

if TYPE_CHECKING:
    from tinkex_actors.clients.backbone import Backbone
    from tinkex_actors.clients.service import ServiceClient
    from tinkex_actors.clients.training import TrainingClient

__all__ = ["attach_model", "backbone_of", "next_number"]


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


def next_number(training: TrainingClient) -> int:
    """Return the number that the model's next request will have."""
    return training._desk.turns.next_seq
