"""What a supervisor has to know to start an actor, and to start it again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import msgspec

from tinkex_actors.errors import ConfigError

__all__ = ["ChildSpec", "FullPolicy", "Mailbox", "Restart", "RestartPolicy"]

Restart = Literal["permanent", "transient", "temporary"]
FullPolicy = Literal["raise", "wait", "drop_oldest", "drop_new"]

RESTARTS = get_args(Restart)
FULL_POLICIES = get_args(FullPolicy)


class Mailbox(msgspec.Struct, frozen=True):
    """How many messages may wait, and what happens to the next one.

    Args:
        capacity: messages that may wait, 1 or more. Default 1024.
        when_full: ``raise`` gives the sender a ``MailboxFullError``; ``wait`` the same for ``cast``, but ``call`` waits
            for room within its deadline; ``drop_oldest`` and ``drop_new`` turn a message into a dead letter. Awaiting
            ``ref.send`` waits for room under every policy.

    Raises:
        ConfigError: a capacity below 1 or an unknown policy.
    """

    capacity: int = 1024
    when_full: FullPolicy = "raise"

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ConfigError(f"Mailbox(capacity=...) must be 1 or more, got {self.capacity!r}.")
        if self.when_full not in FULL_POLICIES:
            wanted = ", ".join(map(repr, FULL_POLICIES))
            raise ConfigError(f"Mailbox(when_full=...) must be one of {wanted}, got {self.when_full!r}.")


DEFAULT_MAILBOX = Mailbox()


class RestartPolicy(msgspec.Struct, frozen=True):
    """What a restart means for the messages, children and state of an actor; its class attribute ``restart_policy``.

    The message that failed is not part of it: ``@handler(retry_once=True)`` says for each handler whether it is tried
    again.

    Args:
        casts: casts queued at the crash are kept for the next incarnation, or ``drop``: they become dead letters.
        calls: queued calls are kept, and their deadlines run on, or ``fail``: ``ActorRestartedError`` at once. Their
            handlers never ran, so they are safe to repeat.
        fail_fast: while it restarts or backs off, calls fail at once with ``ActorRestartedError`` and casts become dead
            letters; otherwise both are queued.
        children: those it spawned are stopped before the new incarnation begins, or ``keep``: they stay and go on. Not
            for supervisors. An ``init`` that fails stops them all the same.
        carry: name of an attribute. Its value when the last handler finished (returned, or said no with a declared
            error) is set again after ``__init__`` and before ``init``. Replace the value, do not change it in place:
            what a failing handler did to the object itself is not undone.

    Raises:
        ConfigError: an option that cannot be.
    """

    casts: Literal["keep", "drop"] = "keep"
    calls: Literal["keep", "fail"] = "keep"
    fail_fast: bool = False
    children: Literal["stop", "keep"] = "stop"
    carry: str | None = None

    def __post_init__(self) -> None:
        allowed = {"casts": ("keep", "drop"), "calls": ("keep", "fail"), "children": ("stop", "keep")}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ConfigError(f"RestartPolicy({name}=...) must be one of {values}, got {getattr(self, name)!r}.")
        if self.carry is not None and not (isinstance(self.carry, str) and self.carry.isidentifier()):
            raise ConfigError(f"RestartPolicy(carry=...) is the name of an attribute, got {self.carry!r}.")


class ChildSpec(msgspec.Struct, frozen=True):
    """An actor as its supervisor sees it. Arguments are reused at each restart, so objects in them outlive a crash.

    Args:
        cls: the actor class.
        args: positional arguments of its ``__init__``.
        kwargs: keyword arguments of its ``__init__``.
        name: unique among its siblings, without ``/``; None takes the class name and a number.
        restart: ``permanent`` always comes back, ``transient`` after a crash or a kill only, ``temporary`` never.
        mailbox: bound and policy.
        shutdown: seconds it gets to finish its message and ``on_stop``; 0 cancels at once; None means 5 seconds, or no
            limit for supervisors.
        significant: its end counts for its supervisor's ``auto_shutdown``; not for permanent children.

    Raises:
        ConfigError: an option that cannot be.
    """

    cls: type[Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    name: str | None = None
    restart: Restart = "permanent"
    mailbox: Mailbox = DEFAULT_MAILBOX
    shutdown: float | None = None
    significant: bool = False

    def __post_init__(self) -> None:
        _validate_class(self.cls)
        _validate_name(self.name)
        if self.restart not in RESTARTS:
            wanted = ", ".join(map(repr, RESTARTS))
            raise ConfigError(f"restart= of {self.cls.__name__} must be one of {wanted}, got {self.restart!r}.")
        if self.significant and self.restart == "permanent":
            raise ConfigError(f"A significant child must be transient or temporary; {self.cls.__name__} is permanent.")
        if self.shutdown is not None and not self.shutdown >= 0.0:
            raise ConfigError(f"shutdown= of {self.cls.__name__} is in seconds, 0 or more, got {self.shutdown!r}.")

    @property
    def grace(self) -> float:
        """Seconds the actor gets to stop; ``inf`` for supervisors unless the spec says otherwise."""
        if self.shutdown is not None:
            return self.shutdown
        default: float = getattr(self.cls, "default_shutdown", math.inf)
        return default


def _validate_class(cls: object) -> None:
    if not (isinstance(cls, type) and hasattr(cls, "default_shutdown")):
        raise ConfigError(f"Only subclasses of Actor can be spawned, got {cls!r}.")
    if "_kind" in cls.__dict__:
        return  # spawned before: its policy has been looked at
    policy = getattr(cls, "restart_policy", None)
    if not isinstance(policy, RestartPolicy):
        raise ConfigError(f"{cls.__name__}.restart_policy must be a RestartPolicy, got {policy!r}.")
    if policy.children == "keep" and getattr(cls, "supervises", False):
        raise ConfigError(f"{cls.__name__} starts its children in init: its restart_policy cannot keep them.")


def _validate_name(name: str | None) -> None:
    if name is not None and (not isinstance(name, str) or not name or "/" in name):
        raise ConfigError(f"An actor's name is a text without '/', got {name!r}.")
