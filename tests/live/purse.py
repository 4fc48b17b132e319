"""What a live run may spend at most, held at the one seam that every request passes."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from tinkex_actors import InputError, SupportedModel
from tinkex_actors.wire.server import decode_request, match

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tinkex_actors.transport import Transport
    from tinkex_actors.wire.exchange import Request, Response

# Of one test. The suite has three that may spend.
MOST_TOKENS = 600
MOST_REQUESTS = 300
MOST = {
    "create_model": 1,
    "forward": 2,
    "forward_backward": 4,
    "optim_step": 3,
    "save_weights": 1,
    "save_weights_for_sampler": 1,
    "load_weights": 1,
    "asample": 6,
    "create_sampling_session": 3,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bm])\b", re.IGNORECASE)


class Purse:
    """A transport that refuses what would cost more than was agreed on.

    Args:
        inner: carries what may pass; closed with this one.

    Attributes:
        spent: requests by route.
        tokens: tokens trained on, prompted with and asked for so far.
    """

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.spent: Counter[str] = Counter()
        self.tokens = 0

    async def send(self, request: Request) -> Response:
        """Pass a request on, if there is money left.

        Raises:
            InputError: there is none; nothing was sent.
        """
        found = match(request)
        if found is None:
            raise InputError(f"The live suite sends {request.method} {request.path}, which no route knows.")
        name = found[0].name
        # A request that is sent again counts again: the caps hold for the worst day too.
        self.spent[name] += 1
        self.tokens += _cost(name, request)
        if self.spent[name] > MOST.get(name, MOST_REQUESTS) or self.spent.total() > MOST_REQUESTS:
            raise InputError(f"The live suite's cap on requests stops {name}: {dict(self.spent)}.")
        if self.tokens > MOST_TOKENS:
            raise InputError(f"The live suite's cap of {MOST_TOKENS} tokens stops {name}: this makes {self.tokens}.")
        return await self._inner.send(request)

    async def close(self) -> None:
        """Close the transport inside."""
        await self._inner.close()


def smallest(models: Iterable[SupportedModel]) -> str:
    """Return the trainable model with the fewest parameters, as far as names tell (``Llama-3.2-1B``)."""
    names = [model.model_name for model in models if model.model_name and model.trainable is not False]
    assert names, "the service offers no model to train"
    return min(names, key=lambda name: (_parameters(name), name))


def _parameters(name: str) -> float:
    # A mixture names its size first and the active part later: the whole has to be loaded.
    sizes = [float(number) * (1e9 if unit.lower() == "b" else 1e6) for number, unit in _SIZE.findall(name)]
    return max(sizes) if sizes else float("inf")


def _cost(name: str, request: Request) -> int:
    if name not in ("forward", "forward_backward", "asample"):
        return 0
    found = match(request)
    assert found is not None
    message: Any = decode_request(found[0], request)
    if name == "asample":
        asked = message.sampling_params.max_tokens
        return message.num_samples * (MOST_TOKENS if asked is None else asked) + int(message.prompt.length)
    return sum(int(datum.model_input.length) for datum in message.forward_backward_input.data)
