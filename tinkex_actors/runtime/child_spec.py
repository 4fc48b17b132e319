"""What a supervisor has to know to start an actor, and to start it again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import msgspec

from tinkex_actors.errors import ConfigError

__all__ = ["ChildSpec", "FullPolicy", "Mailbox", "Restart"]

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


def _validate_name(name: str | None) -> None:
    if name is not None and (not isinstance(name, str) or not name or "/" in name):
        raise ConfigError(f"An actor's name is a text without '/', got {name!r}.")
