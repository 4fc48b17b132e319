"""A counting server with something in front of it that may answer first."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from tinkex_actors import Config, ServiceClient
from tinkex_actors.testing.model_server import ModelServer
from tinkex_actors.wire.exchange import Request, Response

Before = Callable[[Request], Response | None]


class Interposed(ModelServer):
    """Keeps every request, as it was when it came.

    Attributes:
        before: asked first; None lets the server answer.
        requests: all of them, in order.
    """

    def __init__(self, before: Before = lambda _: None) -> None:
        super().__init__(random.Random(0))
        self.before = before
        self.requests: list[Request] = []

    async def send(self, request: Request) -> Response:
        """Answer as ``before`` says, else as the server does."""
        self.requests.append(msgspec.structs.replace(request, headers=dict(request.headers)))
        return self.before(request) or await super().send(request)

    def to(self, path: str) -> list[Request]:
        """The requests with this in their path."""
        return [request for request in self.requests if path in request.path]

    def service(self, **options: Any) -> ServiceClient:
        """A service on this server that has not started."""
        return ServiceClient(config=Config(**{"base_url": "http://127.0.0.1:1", **options}), transport=self)


def json_answer(content: object, status: int = 200, **headers: str) -> Response:
    """An answer in JSON; ``x_y`` becomes the header ``x-y``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, {"content-type": "application/json", **named}, msgspec.json.encode(content))
