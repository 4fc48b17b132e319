"""Finding out what a server speaks, from its refusals (protocol 1.1, 3.1, appendix B).

Nothing is probed for: every request that is needed anyway teaches something, and what was learnt holds for the session.

Rules:

1. 415 takes an encoding away: first zstd, then protobuf, or JSON where protobuf is left. Where both are gone, the
   server cannot train.
2. A 400, 422 or 500 to a protobuf body, while none has been understood yet, is a suspicion. The same request goes out
   as JSON: success makes the suspicion a finding, a refusal clears protobuf for good and the first answer stands.
3. Fields that a 400 or 422 names as unknown are left out from then on, and so is everything else that holds its
   default. A field that carries something is never left out: the server lacks the feature.
4. A 400 or 422 may also ask for a ``stop`` that is a list, for ``max_tokens``, for fields that were left out, or for
   the ``model_id`` of a model that was to be created by loading.
5. 405, 501, and a 404 that speaks of the route and not of an object, mean that the server lacks the route. A route that
   has been answered is not missing.

Each finding is made once. A refusal that teaches nothing new is left to the retry machine, so no exchange repeats for
ever; one that answers an encoding which has been given up meanwhile is repeated in the present one.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

from msgspec import Struct

__all__ = [
    "Acquitted",
    "Answered",
    "Discovery",
    "Encoding",
    "Refused",
    "Resend",
    "Stand",
    "Unsupported",
    "Verdict",
    "answered",
    "lacks",
    "refused",
]

Encoding: TypeAlias = Literal["none", "json", "protobuf", "zstd"]

# What a mandatory `max_tokens` is set to where the caller leaves it to the server; `Discovery.notes` says so.
_MAX_TOKENS = 1024

_BINARY = ("protobuf", "zstd")
_TRAINING = ("forward", "forward_backward")
_ROUTE_STATUSES = (404, 405, 501)
# A server that answers one of these has not looked at the body, so it says nothing about the encoding.
_NOT_LOOKED_AT = (401, 402, 403, 408, 409, 410, 429, 502, 503, 504)

# Words of web servers and frameworks about a route; nobody uses them of a model or a checkpoint.
_OF_A_ROUTE = re.compile(
    r"no (such )?(route|endpoint|page|url|path|handler)\b.*|unknown (route|endpoint|path|url)\b.*"
    r"|(404:? )?(page|route|endpoint|path) not found.*|cannot (get|post|put|delete) .*"
    r"|the requested url was not found.*|<(!doctype|html).*",
    re.IGNORECASE | re.DOTALL,
)
# What frameworks say of a missing route by default, and lazy servers of anything.
_BARE = re.compile(r"((http |error )?404:? ?)?(not[ _]found)?\.?|no detail given", re.IGNORECASE)


class Refused(Struct, frozen=True, kw_only=True):
    """Event: a request was answered with a status that means failure.

    Args:
        route: the endpoint's name; of a training pass ``forward`` or ``forward_backward``, wherever it was posted.
        status: the HTTP status.
        encoding: how the body was sent; ``none`` for a request without one.
        detail: what the server said, in words.
        named_object: the path names an object, so that a bare "not found" may be about that.
        stale: the dialect has changed since the request was encoded.
        unknown: fields that the server says it does not know, as dotted paths.
        missing: fields that it misses.
        not_lists: fields that it wants as lists.
        carrying: those of ``unknown`` whose values mean something: they differ from what leaving them out means.
    """

    route: str
    status: int
    encoding: Encoding = "none"
    detail: str = ""
    named_object: bool = False
    stale: bool = False
    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    not_lists: tuple[str, ...] = ()
    carrying: frozenset[str] = frozenset()


class Answered(Struct, frozen=True):
    """Event: a request of ``route`` was understood; ``encoding`` as in :class:`Refused`."""

    route: str
    encoding: Encoding = "none"


class Resend(Struct, frozen=True):
    """Verdict: encode the message again and send it at once; this is no retry. ``why`` is for the log."""

    why: str


class Acquitted(Struct, frozen=True):
    """Verdict: the trial in JSON has failed as well; go on with the answer that led to it, and with protobuf."""


class Unsupported(Struct, frozen=True):
    """Verdict: the server lacks what this request needs; ``remedy`` is a sentence."""

    feature: str
    remedy: str


class Stand(Struct, frozen=True):
    """Verdict: nothing to learn; the answer is the retry machine's business."""


Verdict: TypeAlias = Resend | Acquitted | Unsupported | Stand

STAND = Stand()


class Discovery(Struct, kw_only=True):
    """What is known of a server, changed in place.

    Args:
        name: the dialect that the session's start settled on: ``hosted`` where there is a client config, else ``json``.
        prefers_protobuf: training bodies go out as protobuf while it is not refused.
        protobuf: ``untried``; ``suspected`` while a trial in JSON is under way; ``cleared`` after a failed one;
            ``accepted`` once a body was understood; ``refused`` for good.
        json: the same of training bodies in JSON: ``untried``, ``accepted`` or ``refused``.
        zstd: compressed bodies are not refused.
        forward_route: a pass without gradient in JSON has a route of its own.
        metadata_only: a poll may ask for the size first.
        create_by_load: None while untried.
        minimal: fields that hold their default are left out.
        needs_defaults: the server misses fields that were left out, so none are any more.
        stop_as_list: a lone stop text is sent as a list.
        max_tokens: sent where the caller gave none; None sends none.
        dropped: pairs of route and dotted path that are never sent.
        answered: routes that were answered.
        lacking: routes that the server has not.
    """

    name: str = "hosted"
    prefers_protobuf: bool = True
    protobuf: Literal["untried", "suspected", "cleared", "accepted", "refused"] = "untried"
    json: Literal["untried", "accepted", "refused"] = "untried"
    zstd: bool = True
    forward_route: bool = True
    metadata_only: bool = True
    create_by_load: bool | None = None
    minimal: bool = False
    needs_defaults: bool = False
    stop_as_list: bool = False
    max_tokens: int | None = None
    dropped: frozenset[tuple[str, str]] = frozenset()
    answered: frozenset[str] = frozenset()
    lacking: frozenset[str] = frozenset()

    @property
    def speaks_protobuf(self) -> bool:
        """Whether training bodies are to be sent as protobuf."""
        if self.protobuf in ("suspected", "refused"):
            return False
        return self.prefers_protobuf or self.json == "refused"

    def settle(self, *, hosted: bool) -> None:
        """The start of the session knows whether there is a client config, and with it the dialect to begin with."""
        self.name = "hosted" if hosted else "json"
        self.prefers_protobuf = hosted
        self.minimal = not hosted and not self.needs_defaults
        self.metadata_only = self.metadata_only and hosted
        if self.create_by_load is None and not hosted:
            self.create_by_load = False

    def notes(self) -> list[str]:
        """Each finding that makes this server differ from the hosted one, as a line for people."""
        differences: list[tuple[bool, str]] = [
            (self.protobuf == "refused", "training batches travel as JSON: protobuf is refused"),
            (self.json == "refused", "training batches travel as protobuf: JSON is refused"),
            (not self.zstd, "bodies travel uncompressed: zstd is refused"),
            (not self.forward_route and not self.speaks_protobuf, "forward is posted to forward_backward"),
            (self.create_by_load is False, "a model is created first and loaded then, from a checkpoint"),
            (self.minimal, "fields that hold their default are left out"),
            (self.stop_as_list, "stop is sent as a list"),
            (self.max_tokens is not None, f"samples without max_tokens end after {self.max_tokens} tokens"),
            (bool(self.dropped), f"never sent: {', '.join('.'.join(pair) for pair in sorted(self.dropped))}"),
            (bool(self.lacking), f"missing routes: {', '.join(sorted(self.lacking))}"),
        ]
        return [text for differs, text in differences if differs]


def answered(state: Discovery, event: Answered) -> Resend | None:
    """Take note of a success; return what it settled, as a verdict to be logged, or None."""
    state.answered |= {event.route}
    state.lacking -= {event.route}
    if event.route not in _TRAINING:
        return None
    if event.encoding in _BINARY:
        state.protobuf = "accepted"
    elif event.encoding == "json":
        state.json = "accepted"
        if state.protobuf == "suspected":
            state.protobuf = "refused"
            return Resend("protobuf bodies fail on this server, JSON is understood")
    return None


def refused(state: Discovery, event: Refused) -> Verdict:
    """Learn from a failure and say what to do with the request.

    Args:
        state: changed in place.
        event: what came back.
    """
    if event.status in _ROUTE_STATUSES:
        verdict = _missing_route(state, event)
    elif event.status == 415:
        verdict = _unsupported_type(state, event)
    elif event.status in (400, 422) and event.encoding == "json":
        verdict = _fields(state, event)
    else:
        verdict = STAND
    if isinstance(verdict, Stand):
        verdict = _suspicion(state, event)
    return verdict


def lacks(state: Discovery, route: str) -> Unsupported | None:
    """Return the verdict on a route that is known to be missing, so that nothing needs to be sent; None where it may
    be there."""
    if route not in state.lacking:
        return None
    return _without(route)


# --- encodings -------------------------------------------------------------------------------------------------------
def _unsupported_type(state: Discovery, event: Refused) -> Verdict:
    if event.encoding == "zstd":
        if not state.zstd and not event.stale:
            return STAND
        state.zstd = False
        return Resend("415 to zstd: bodies are sent uncompressed")
    if event.route not in _TRAINING or event.encoding == "none":
        return STAND
    if event.encoding == "protobuf":
        state.protobuf = "refused"
        return _NO_ENCODING if state.json == "refused" else Resend("415 to protobuf: JSON is spoken")
    state.json = "refused"
    if state.protobuf == "suspected":
        return _clear(state)
    return _NO_ENCODING if state.protobuf == "refused" else Resend("415 to JSON: protobuf is spoken")


def _suspicion(state: Discovery, event: Refused) -> Verdict:
    if event.route not in _TRAINING or event.status in _NOT_LOOKED_AT or event.status in _ROUTE_STATUSES:
        return STAND
    if event.encoding in _BINARY:
        if state.protobuf in ("suspected", "refused"):
            return Resend("encoded before protobuf was given up") if event.stale else STAND
        if state.protobuf == "untried" and state.json != "refused" and event.status in (400, 422, 500):
            state.protobuf = "suspected"
            return Resend(f"{event.status} to the first protobuf body: JSON is tried")
    elif event.encoding == "json" and state.protobuf == "suspected":
        return _clear(state)
    return STAND


def _clear(state: Discovery) -> Acquitted:
    state.protobuf = "cleared"
    return Acquitted()


# --- fields ----------------------------------------------------------------------------------------------------------
def _fields(state: Discovery, event: Refused) -> Verdict:
    if event.route == "load_weights" and (
        {"model_id", "seq_id"} & set(event.missing) or {"session_id", "model_seq_id"} & set(event.unknown)
    ):
        # Another conversation, not another encoding: whoever asked for the model begins it.
        state.create_by_load = False
        return STAND
    lacking = sorted(event.carrying & set(event.unknown))
    if lacking:
        return Unsupported(
            f"{event.route} with {', '.join(lacking)}", "Leave it at its default, or use a server that has it."
        )
    learnt = [*_drop(state, event), *_supply(state, event)]
    if learnt:
        return Resend("; ".join(learnt))
    return Resend("encoded before the dialect changed") if event.stale else STAND


def _drop(state: Discovery, event: Refused) -> list[str]:
    fields = set(event.unknown)
    learnt = []
    if event.route == "retrieve_future" and "allow_metadata_only" in fields and state.metadata_only:
        state.metadata_only = False
        fields.discard("allow_metadata_only")
        learnt.append("polls do not ask for the size first")
    new = {(event.route, field) for field in fields} - state.dropped
    if new:
        state.dropped |= new
        state.minimal = not state.needs_defaults
        learnt.append(f"{event.status}: {', '.join(sorted(field for _, field in new))} left out from now on")
    return learnt


def _supply(state: Discovery, event: Refused) -> list[str]:
    learnt = []
    missing = set(event.missing)
    if event.route == "asample" and "sampling_params.stop" in event.not_lists and not state.stop_as_list:
        state.stop_as_list = True
        learnt.append("stop is sent as a list")
    if event.route == "asample" and "sampling_params.max_tokens" in missing:
        missing.discard("sampling_params.max_tokens")
        if state.max_tokens is None:
            state.max_tokens = _MAX_TOKENS
            learnt.append(f"max_tokens is mandatory: {_MAX_TOKENS} where none is given")
    if missing and state.minimal:
        state.minimal = False
        state.needs_defaults = True
        learnt.append(f"{', '.join(sorted(missing))} mandatory: defaults are sent")
    return learnt


# --- routes ----------------------------------------------------------------------------------------------------------
def _missing_route(state: Discovery, event: Refused) -> Verdict:
    if not _speaks_of_the_route(event) or event.route in state.answered:
        return STAND
    if event.route == "forward" and event.encoding == "json" and (state.forward_route or event.stale):
        state.forward_route = False
        return Resend("no forward route: forward_backward takes the pass")
    state.lacking |= {event.route}
    return _without(event.route)


def _speaks_of_the_route(event: Refused) -> bool:
    if event.status != 404:
        return True
    detail = event.detail.strip()
    return bool(_OF_A_ROUTE.fullmatch(detail)) or (not event.named_object and bool(_BARE.fullmatch(detail)))


_NO_ENCODING = Unsupported(
    "training requests", "It takes neither protobuf nor JSON bodies: check that base_url is a Tinker server's."
)

_FEATURES: dict[str, Unsupported] = {
    "client_config": Unsupported("a client config", "None is needed: the defaults hold."),
    "dynamic_config": Unsupported("a dynamic config", "None is needed: the defaults hold."),
    "create_session": Unsupported("sessions", "Check that base_url is a Tinker server's, without /api/v1 at its end."),
    "session_heartbeat": Unsupported("heartbeats", "None are needed: it keeps sessions by rules of its own."),
    "finish_session": Unsupported("ending a session", "Nothing is to be done: it ends by the server's time-outs."),
    "forward": Unsupported("forward passes without a gradient", "Use forward_backward on a model you do not step."),
    "weights_info": Unsupported(
        "describing checkpoints", "Create a model with create_lora_training_client, then call load_state on it."
    ),
    "get_sampler": Unsupported("describing samplers", "Keep the base model's name beside the path."),
    "unload_model": Unsupported("unloading models", "Close the service: its models end with the session."),
    "telemetry": Unsupported("telemetry", "Nothing is to be done: events are dropped."),
    "cancel_future": Unsupported("cancelling", "Nothing is to be done: the work ends by itself."),
    "retrieve_futures": Unsupported("polling many results at once", "None is needed: results are polled singly."),
    "get_server_capabilities": Unsupported("listing its models", "Pass a base model's name that you know of."),
    "get_session": Unsupported("describing sessions", "Keep the session id yourself."),
    "save_weights_external": Unsupported("external weights", "Use save_state, or save_weights_for_sampler."),
    "create_custom_loss": Unsupported("custom losses on the server", "Give forward_backward_custom a function."),
}


def _without(route: str) -> Unsupported:
    words = route.replace("_", " ")
    return _FEATURES.get(route) or Unsupported(words, "Do without it, or use a server that has it.")
