"""Messages: the handler descriptor, the reply slot, and the proxies generated for each actor class.

A message is the flat tuple ``(handler, *arguments)``, one object for the garbage collector and not two: a thousand
waiting messages are a thousand objects that each collection looks at. If the handler has parameters that are keywords
only, the last item is a dict of them. A call is a ``Reply`` that carries a message. The proxies have the handlers' own
signatures, so a wrong argument is a ``TypeError`` where it is written, not a crash of the receiver.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, TypeVar

if TYPE_CHECKING:
    from tinkex_actors.runtime._core.cell import Cell
    from tinkex_actors.runtime.child_spec import RestartPolicy

__all__ = ["Continuation", "Handler", "Kind", "Last", "Message", "Reply", "Retried", "Wrap", "kind_of"]

P = ParamSpec("P")
R = TypeVar("R")

Message: TypeAlias = "tuple[Any, ...]"

POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD

# ``Cell.put`` and ``Cell.schedule`` with their usual cases written out: two calls less for each message. A falsy state
# is IDLE, and 1 is READY: this text is compiled in modules that do not know those names.
CAST = """\
    __cell = _proxy._cell
    __box = __cell.box
    if __box is None or len(__box) >= __cell.capacity:
        return __cell.put({message})
    __box.append({message})
    if not __cell.state:
        __cell.state = 1
        __scheduler = __cell.system.scheduler
        __scheduler.queue.append(__cell)
        if __scheduler.asleep:
            __scheduler.wake()"""
CALL = "    return _proxy._cell.{ask}({message}, _proxy._timeout)"
SEND = "    return _proxy._cell.deliver({message})"


class Handler(Generic[P, R]):
    """A method that can be sent as a message; made by ``handler``.

    On an actor instance it is the plain method. Through a ref it is ``ref.call.name``, ``ref.cast.name`` and
    ``ref.send.name``, with the same parameters.
    """

    def __init__(
        self, function: Callable[..., Any], raises: tuple[type[Exception], ...] = (), retry_once: bool = False
    ) -> None:
        self.function = function
        self.raises = raises
        self.retry_once = retry_once
        self.name = function.__name__
        self.is_async = inspect.iscoroutinefunction(function)
        kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
        self.keywords = inspect.Parameter.KEYWORD_ONLY in kinds or inspect.Parameter.VAR_KEYWORD in kinds
        # Messages of one argument are most messages, and a call with a star takes three times as long.
        self.one = len(kinds) == 2 and kinds[1] in (inspect.Parameter.POSITIONAL_ONLY, POSITIONAL)
        self.__doc__ = function.__doc__

    def __get__(self, instance: object, owner: type | None = None) -> Callable[P, Awaitable[R]]:
        if instance is None:
            return self  # type: ignore[return-value]  # the class attribute is the handler itself
        bound: Callable[P, Awaitable[R]] = self.function.__get__(instance, owner)
        return bound

    def run(self, actor: object, message: Message) -> Any:
        """Call the method of ``actor`` with a message's arguments."""
        if self.keywords:
            return self.function(actor, *message[1:-1], **message[-1])
        return self.function(actor, *message[1:])

    def around(self, function: Callable[..., Any]) -> Handler[P, R]:
        """Return the same message with ``function`` (``async def`` if this one is) run in the method's place."""
        return Handler(functools.wraps(self.function)(function), self.raises, self.retry_once)

    def __repr__(self) -> str:
        return f"<handler {self.function.__qualname__}>"


Wrap: TypeAlias = "Callable[[Handler[..., Any]], Handler[..., Any]]"


class Continuation(tuple):  # type: ignore[type-arg]
    """A message that goes before everything queued, but after continuations queued earlier."""

    __slots__ = ()


class Retried(tuple):  # type: ignore[type-arg]
    """A message whose handler has crashed the actor once; it goes first, and is not tried a third time."""

    __slots__ = ()


class Last(tuple):  # type: ignore[type-arg]
    """The message that ends a drained actor."""

    __slots__ = ()


class Reply(asyncio.Future):  # type: ignore[type-arg]
    """The reply slot of a call and its envelope in one object."""

    __slots__ = ("message",)

    message: Message

    def answer(self, value: object) -> None:
        """Give the caller its result, unless it went away."""
        if not self.done():
            self.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Give the caller an error, unless it went away."""
        if self.done():
            return
        if isinstance(error, StopIteration):  # a future refuses it; PEP 479 does the same in a generator
            wrapped = RuntimeError("the handler raised StopIteration")
            wrapped.__cause__ = error
            error = wrapped
        self.set_exception(error)
        self.exception()  # a caller cancelled in this very turn never looks: that is not an unhandled error


class Proxy:
    """Base of the generated proxies."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Any) -> None:
        self._cell = cell

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(sorted(key for key in vars(type(self)) if not key.startswith("_"))) or "none"
        raise AttributeError(
            f"{type(self).__name__} has no message {name!r}; its messages: {known}. "
            "Only methods decorated with @handler can be sent."
        )


class TimedProxy(Proxy):
    """Base of the generated call proxies."""

    __slots__ = ("_timeout",)

    def __init__(self, cell: Any, timeout: float) -> None:
        self._cell = cell
        self._timeout = timeout


class Kind:
    """What the runtime knows about an actor class; made at its first spawn, kept in the class."""

    __slots__ = (
        "call",
        "cast",
        "cls",
        "handlers",
        "has_init",
        "has_on_stop",
        "hooks",
        "policy",
        "send",
        "stem",
        "tasked",
    )

    def __init__(self, cls: type[Any], base: type[Any], wraps: Sequence[Wrap] = ()) -> None:
        self.cls = cls
        self.stem = cls.__name__.lower()  # of the names of those spawned without one
        self.policy: RestartPolicy = cls.restart_policy
        self.handlers: dict[str, Handler[..., Any]] = {}
        for name in dir(cls):
            attribute = inspect.getattr_static(cls, name)
            if isinstance(attribute, Handler):
                self.handlers[name] = _wrapped(attribute, wraps)
        self.tasked = any(handler.is_async for handler in self.handlers.values())
        self.has_init = cls.init is not base.init
        self.has_on_stop = cls.on_stop is not base.on_stop
        hooks = ((name, _hook(cls, name)) for name in ("on_down", "on_exit", "on_restarted"))
        self.hooks = {name: None if hook is None else _wrapped(hook, wraps) for name, hook in hooks}
        self._make_proxies()
        self.tasked = self.tasked or any(hook is not None and hook.is_async for hook in self.hooks.values())

    def wrapped(self, wrap: Wrap) -> Kind:
        """Return another record of the same class whose handlers are ``wrap(handler)``."""
        other = copy.copy(self)
        other.handlers = {name: wrap(handler) for name, handler in self.handlers.items()}
        other._make_proxies()
        return other

    def _make_proxies(self) -> None:
        self.cast = _proxy(self.cls, Proxy, "cast", self.handlers, CAST)
        self.call = _proxy(self.cls, TimedProxy, "call", self.handlers, CALL)
        self.send = _proxy(self.cls, Proxy, "send", self.handlers, SEND)


def kind_of(cls: type[Any], base: type[Any]) -> Kind:
    """Return the record of an actor class, made once.

    Args:
        cls: the actor class.
        base: ``Actor`` itself, whose hooks do nothing.
    """
    kind = cls.__dict__.get("_kind")
    if kind is None:
        from tinkex_actors.runtime._core.carrying import committing

        carry = cls.restart_policy.carry
        kind = Kind(cls, base) if carry is None else Kind(cls, base, (committing(carry),))
        cls._kind = kind
    return kind


def _wrapped(handler: Handler[..., Any], wraps: Sequence[Wrap]) -> Handler[..., Any]:
    for wrap in wraps:
        handler = wrap(handler)
    return handler


def _hook(cls: type[Any], name: str) -> Handler[..., Any] | None:
    found = inspect.getattr_static(cls, name, None)
    if found is None or isinstance(found, Handler):
        return found
    return Handler(found)


def _proxy(cls: type[Any], base: type[Any], kind: str, handlers: Mapping[str, Handler[..., Any]], body: str) -> Any:
    members: dict[str, Any] = {"__slots__": (), "__doc__": f"The messages of ``{cls.__name__}``, for ``ref.{kind}``."}
    for name, handler in handlers.items():
        members[name] = _method(name, handler, body)
    return type(f"{cls.__name__}.{kind}", (base,), members)


def _method(name: str, handler: Handler[..., Any], body: str) -> Callable[..., Any]:
    """Compile ``def name(proxy, <the handler's parameters>): <body>``."""
    scope: dict[str, Any] = {"_handler": handler}
    declared, positional, keywords = ["_proxy"], [], []
    starred = False
    parameters = list(inspect.signature(handler.function).parameters.values())[1:]
    for index, parameter in enumerate(parameters):
        text = parameter.name
        if parameter.default is not parameter.empty:
            scope[f"_default{index}"] = parameter.default
            text += f"=_default{index}"
        if parameter.kind is parameter.VAR_POSITIONAL:
            starred = True
            declared.append("*" + text)
            positional.append(f"*{parameter.name}")
        elif parameter.kind is parameter.VAR_KEYWORD:
            declared.append("**" + text)
            keywords.append(f"**{parameter.name}")
        elif parameter.kind is parameter.KEYWORD_ONLY:
            if not starred:
                starred = True
                declared.append("*")
            declared.append(text)
            keywords.append(f"{parameter.name!r}: {parameter.name}")
        else:
            declared.append(text)
            positional.append(parameter.name)
    last_positional_only = max((i for i, p in enumerate(parameters) if p.kind is p.POSITIONAL_ONLY), default=-1)
    if last_positional_only >= 0:
        declared.insert(last_positional_only + 2, "/")
    if keywords:
        positional.append(f"{{{', '.join(keywords)}}}")
    # What may be tried again needs an envelope to be queued with: it never runs inside its caller.
    ask = "ask_queued" if handler.retry_once else "ask"
    source = body.format(ask=ask, message=f"({', '.join(['_handler', *positional])},)")
    # The source is built from identifiers that inspect took from a compiled function, never from text of a user's.
    exec(f"def {name}({', '.join(declared)}):\n{source}", scope)
    method: Callable[..., Any] = scope[name]
    method.__doc__ = handler.__doc__
    method.__qualname__ = handler.function.__qualname__
    return method


class Lane:
    """Stands in for a cell inside a cast proxy: collects the message instead of queueing it."""

    __slots__ = ("box", "message")

    message: Message | None

    def __init__(self) -> None:
        self.box = None
        self.message = None

    def put(self, message: Message) -> None:
        """Keep the message."""
        self.message = message


def message_of(callback: Callable[..., object], args: tuple[Any, ...], cell: Cell) -> Message | None:
    """Return the message that ``callback(*args)`` would cast to ``cell``, or None if it is not such a cast."""
    proxy = getattr(callback, "__self__", None)
    if not isinstance(proxy, Proxy) or isinstance(proxy, TimedProxy) or proxy._cell is not cell:
        return None
    if type(proxy) is not cell.kind.cast:
        return None
    lane = Lane()
    callback.__func__(type(proxy)(lane), *args)  # type: ignore[attr-defined]  # a bound method, as just seen
    return lane.message
