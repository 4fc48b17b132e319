"""A service on a server that counts (``tinkex_actors.testing.model_server``), for tests of actors and clients."""

from __future__ import annotations

import random

from tinkex_actors import Datum, ModelInput, ServiceClient
from tinkex_actors.testing.model_server import Faults, ModelServer


def datum(tokens: int = 4) -> Datum:
    """Return a datum that every server accepts under cross_entropy."""
    ids = list(range(tokens))
    return Datum(
        model_input=ModelInput.from_ints(ids), loss_fn_inputs={"target_tokens": ids, "weights": [1.0] * tokens}
    )


def counting(seed: int = 0, **faults: float) -> tuple[ServiceClient, ModelServer]:
    """Return a service that has not started, and its server."""
    server = ModelServer(random.Random(seed), Faults(**faults))
    return ServiceClient(base_url="http://127.0.0.1:1", transport=server), server
