"""How a server is spoken to: what was found out about it, and the dialect that follows from that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.errors import UnsupportedByServerError
from tinkex_actors.machines import discovery
from tinkex_actors.runtime.log import Logger
from tinkex_actors.wire.complaints import carries, fields_wanted_as_lists, missing_fields, unknown_fields
from tinkex_actors.wire.dialect import HOSTED, Dialect
from tinkex_actors.wire.routes import PREFIX

if TYPE_CHECKING:
    from tinkex_actors.errors import APIStatusError
    from tinkex_actors.runtime import ActorSystem
    from tinkex_actors.wire.routes import Route

__all__ = ["DialectLearnt", "Speech"]

_log = Logger("tinkex_actors.session")


class DialectLearnt(msgspec.Struct, frozen=True, tag="dialect.learnt"):
    """Event: the server was found to differ from what was assumed; ``what`` says how it is spoken to from now on."""

    server: str
    route: str
    what: str


class Speech:
    """What one service knows of its server. Found once, kept for the session.

    Args:
        server: its URL as it may be shown.
        system: takes the events.

    Attributes:
        found: the machine's state.
        dialect: how to encode and decode now; a new object whenever something was learnt.
        settled: whether the start of the session has settled on a dialect to begin with.
    """

    __slots__ = ("_system", "_understood", "dialect", "found", "server", "settled")

    def __init__(self, server: str, *, system: ActorSystem) -> None:
        self.server = server
        self.found = discovery.Discovery()
        self.dialect: Dialect = HOSTED
        self.settled = False
        self._system = system
        # Routes that have nothing more to teach by succeeding; asked for every answer, so it is a plain set.
        self._understood: set[str] = set()

    def settle(self, *, hosted: bool) -> None:
        """There is a client config, or there is none: begin with the dialect that such servers speak."""
        self.found.settle(hosted=hosted)
        self.settled = True
        self._renew()

    def understood(self, route: Route, dialect: Dialect, *, compressed: bool) -> None:
        """A request of this route was answered with success, sent as ``dialect`` has it."""
        if route.name in self._understood and dialect is self.dialect:
            return
        before = self.found.speaks_protobuf
        encoding = _encoding(route, dialect, compressed)
        settled = discovery.answered(self.found, discovery.Answered(route.name, encoding))
        if settled is not None:
            self._learnt(route.name, settled.why)
        if self.found.speaks_protobuf != before:
            self._renew()
        self._understood.add(route.name)

    def learn(
        self,
        route: Route,
        message: Any,
        dialect: Dialect,
        error: APIStatusError,
        *,
        compressed: bool = False,
        before: APIStatusError | None = None,
    ) -> APIStatusError | None:
        """Look for what a refusal says about the server.

        Args:
            route: where the request went, as the caller named it.
            message: what was sent.
            dialect: how it was encoded.
            error: the refusal.
            compressed: the body was sent as zstd.
            before: the refusal that the last call for this request answered with None.

        Returns:
            None to encode and send the request again at once; else the error to go on with.

        Raises:
            UnsupportedByServerError: the server cannot do what is asked.
        """
        verdict = discovery.refused(self.found, self._event(route, message, dialect, error, compressed))
        self._renew()
        match verdict:
            case discovery.Resend(why=why):
                self._learnt(route.name, why)
                return None
            case discovery.Acquitted():
                return before or error
            case discovery.Unsupported():
                raise self._unsupported(route, verdict, error.status_code) from error
            case _:
                return error

    def lacks(self, route_name: str) -> bool:
        """Whether the server is known to have no such route."""
        return discovery.lacks(self.found, route_name) is not None

    def note(self) -> str:
        """One line about the server, for ``explain()``."""
        return f"server: {self.server}, {'; '.join(self.lines())}"

    def lines(self) -> tuple[str, ...]:
        """The dialect's name, and each way in which the server differs from the hosted one."""
        if not self.settled:
            return ("not asked yet",)
        return (f"{self.found.name} dialect", *self.found.notes())

    def _event(
        self, route: Route, message: Any, dialect: Dialect, error: APIStatusError, compressed: bool
    ) -> discovery.Refused:
        named = unknown_fields(error.body)
        detail = error.body
        while isinstance(detail, dict):
            detail = next((detail[key] for key in ("detail", "error", "message") if key in detail), "")
        return discovery.Refused(
            route=route.name,
            status=error.status_code,
            encoding=_encoding(route, dialect, compressed),
            detail=detail if isinstance(detail, str) else "",
            # A poll names its promise in the body, and no server can do without polls.
            named_object="{" in route.path or route.name == "retrieve_future",
            stale=dialect is not self.dialect,
            unknown=named,
            missing=missing_fields(error.body),
            not_lists=fields_wanted_as_lists(error.body),
            carrying=frozenset(field for field in named if carries(message, field)),
        )

    def _renew(self) -> None:
        found = self.found
        renewed = Dialect(
            name=found.name,
            protobuf=found.speaks_protobuf,
            # Without a route of its own a pass in JSON says by its key that it wants no gradient.
            forward_only_in_forward_backward=found.speaks_protobuf or not found.forward_route,
            metadata_only=found.metadata_only,
            sample_sequence_ids=found.name == "hosted",
            create_by_load=found.create_by_load is not False,
            minimal=found.minimal,
            stop_as_list=found.stop_as_list,
            max_tokens=found.max_tokens,
            dropped=found.dropped,
        )
        if renewed != self.dialect:
            self.dialect = renewed
            self._understood.clear()

    def _learnt(self, route: str, what: str) -> None:
        _log.info("dialect.learnt", server=self.server, route=route, what=what)
        self._system.events.publish(DialectLearnt(self.server, route, what))

    def _unsupported(self, route: Route, verdict: discovery.Unsupported, status: int) -> UnsupportedByServerError:
        return UnsupportedByServerError(
            f"{self.server} does not support {verdict.feature} ({route.method} {PREFIX}{route.path}: HTTP {status}). "
            f"{verdict.remedy}",
            feature=verdict.feature,
            server=self.server,
            remedy=verdict.remedy,
        )


def _encoding(route: Route, dialect: Dialect, compressed: bool) -> discovery.Encoding:
    if route.method == "GET" or route.request is None:
        return "none"
    if not (route.protobuf_request and dialect.protobuf):
        return "json"
    return "zstd" if compressed else "protobuf"
