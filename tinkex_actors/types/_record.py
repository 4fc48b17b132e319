"""What all plain records share: fields checked where the record is made, and a representation that stays short.

A record's annotations are its rules. The checks of a class are compiled from them once, at its first instance; the
usual value of a field then costs one look at its type.
"""

from __future__ import annotations

import operator
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, ClassVar, Final, Literal, NamedTuple, Union

import msgspec
import numpy as np

from tinkex_actors.errors import InputError

__all__ = ["Record", "Tagged", "as_number", "check_fields", "short"]

_MISSING: Final = object()
_SHOWN_TEXT: Final = 80
_SHOWN_ITEMS: Final = 6
_KEYS: Final = frozenset({str})


class Record(msgspec.Struct, frozen=True):
    """Base of the plain records.

    Making one checks every field against its annotation. Numbers of numpy and JAX become Python's, tuples and other
    sequences become lists; everything else must be what the annotation says.

    Raises:
        InputError: naming the record, the field, what was expected and what came.
    """

    _secrets: ClassVar[tuple[str, ...]] = ()
    """Fields whose value no representation shows."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={text}" for name, text in _shown_fields(self))
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, _Verbatim(text)) for name, text in _shown_fields(self)]


class Tagged(Record, frozen=True):
    """Base of the records that the wire tells apart by the field ``type``."""

    @property
    def type(self) -> str:
        """The wire's discriminator."""
        return str(self.__struct_config__.tag)


class _Verbatim:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


# --- checking ------------------------------------------------------------------------------------------------------
class _Rule(NamedTuple):
    exact: frozenset[type]
    """Types whose values need no closer look."""
    convert: Callable[[Any], Any]
    """Return the value to keep, or raise ``_Mismatch``."""
    expected: str
    hint: str = ""


class _Mismatch(Exception):
    """The value is not what the annotation says. Of a part, such as an entry of a list, it says which and why."""

    def __init__(self, place: str = "", rule: _Rule | None = None, value: Any = None) -> None:
        super().__init__(place)
        self.place, self.rule, self.value = place, rule, value


def check_fields(record: msgspec.Struct) -> None:
    """Check and convert the fields of ``record`` in place; see ``Record``."""
    for name, rule, default in _rules(type(record)):
        value = getattr(record, name)
        if type(value) in rule.exact or value is default:
            continue
        try:
            kept = rule.convert(value)
        except _Mismatch as mismatch:
            secret = isinstance(record, Record) and name in record._secrets
            raise _refusal(f"{type(record).__name__}: {name}", rule, value, mismatch, secret) from None
        if kept is not value:
            msgspec.structs.force_setattr(record, name, kept)


def _refusal(field: str, rule: _Rule, value: Any, mismatch: _Mismatch, secret: bool) -> InputError:
    if mismatch.rule is not None:
        rule, value = mismatch.rule, mismatch.value
    hint = f" {rule.hint}" if rule.hint else ""
    got = f"{'<secret>' if secret else short(value)} ({type(value).__name__})"
    return InputError(f"{field}{mismatch.place} must be {rule.expected}, got {got}.{hint}")


@lru_cache(maxsize=512)
def _rules(kind: type[msgspec.Struct]) -> tuple[tuple[str, _Rule, Any], ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    # Defaults are right: where one stands, nothing needs a look.
    defaults = {field.name: field.default for field in msgspec.structs.fields(kind)}
    rules = ((name, _rule(hints[name]), defaults[name]) for name in kind.__struct_fields__)
    return tuple(entry for entry in rules if entry[1].expected != "anything")


def _rule(hint: Any) -> _Rule:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _bounded(_rule(arguments[0]), arguments[1:])
    if origin is Literal:
        return _literal(arguments)
    if origin in (Union, types.UnionType):
        return _union([_rule(argument) for argument in arguments])
    if origin in (list, Sequence):
        return _list(_rule(arguments[0]))
    if origin is dict:
        return _dict(_rule(arguments[1]))
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if isinstance(hint, type) and origin is None and hint is not Any:
        return _instance(hint)
    # Any, and arrays: the record itself looks at those.
    return _Rule(frozenset(), lambda value: value, "anything")


def _instance(kind: type) -> _Rule:
    def convert(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        raise _Mismatch

    name = kind.__name__
    hint = f"Make one with {getattr(kind, '_made_by', name)}(...)."
    return _Rule(frozenset({kind}), convert, f"a{'n' if name[0] in 'AEIO' else ''} {name}", hint)


def _literal(values: tuple[Any, ...]) -> _Rule:
    def convert(value: Any) -> Any:
        for allowed in values:
            if value == allowed and type(value) is type(allowed):
                return value
        raise _Mismatch

    return _Rule(frozenset(), convert, " or ".join(map(repr, values)))


def _union(rules: list[_Rule]) -> _Rule:
    def convert(value: Any) -> Any:
        deepest = _Mismatch()
        for rule in rules:
            try:
                return value if type(value) in rule.exact else rule.convert(value)
            except _Mismatch as mismatch:
                deepest = max(deepest, mismatch, key=lambda one: len(one.place))
        raise deepest

    if any(rule.expected == "anything" for rule in rules):
        return _Rule(frozenset(), lambda value: value, "anything")
    expected = " or ".join(rule.expected for rule in rules)
    # With several kinds of records to choose from, the names say enough.
    hints = [rule.hint for rule in rules if rule.hint]
    exact = frozenset[type]().union(*(rule.exact for rule in rules))
    return _Rule(exact, convert, expected, hints[0] if len(hints) == 1 else "")


def _list(item: _Rule) -> _Rule:
    def convert(value: Any) -> Any:
        if type(value) is not list:
            value = _listed(value)
        if item.expected == "anything" or item.exact.issuperset(map(type, value)):
            return value
        return [_part(item, entry, at) for at, entry in enumerate(value)]

    what = f"({item.expected})" if " or " in item.expected else item.expected
    return _Rule(frozenset(), convert, f"a list, each entry {what}")


def _listed(value: Any) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)):
        raise _Mismatch
    if hasattr(value, "__array__"):
        value = np.asarray(value).tolist()
    if not isinstance(value, Sequence):
        raise _Mismatch
    return list(value)


def _dict(item: _Rule) -> _Rule:
    def convert(value: Any) -> Any:
        if type(value) is not dict and not isinstance(value, Mapping):
            raise _Mismatch
        entries = value if type(value) is dict else dict(value)
        if not _KEYS.issuperset(map(type, entries)):
            raise _Mismatch
        if item.expected == "anything" or item.exact.issuperset(map(type, entries.values())):
            return entries
        return {key: _part(item, entry, key) for key, entry in entries.items()}

    return _Rule(frozenset(), convert, f"a dict from text to {item.expected}")


def _part(item: _Rule, entry: Any, key: str | int) -> Any:
    if type(entry) in item.exact:
        return entry
    try:
        return item.convert(entry)
    except _Mismatch as mismatch:
        place = f"[{key!r}]"
        if mismatch.rule is None:
            raise _Mismatch(place + mismatch.place, item, entry) from None
        raise _Mismatch(place + mismatch.place, mismatch.rule, mismatch.value) from None


def _bounded(rule: _Rule, extras: tuple[Any, ...]) -> _Rule:
    """Return the rule with the bounds of a ``msgspec.Meta``, which msgspec enforces when it decodes."""
    meta = next(extra for extra in extras if isinstance(extra, msgspec.Meta))
    bounds: tuple[tuple[str, Any, Callable[[Any, Any], bool]], ...] = (
        (">=", meta.ge, operator.ge),
        (">", meta.gt, operator.gt),
        ("<=", meta.le, operator.le),
        ("<", meta.lt, operator.lt),
        ("of a length >=", meta.min_length, lambda value, least: len(value) >= least),
        ("of a length <=", meta.max_length, lambda value, most: len(value) <= most),
        ("with a time zone", True if meta.tz else None, lambda value, _: value.tzinfo is not None),
    )
    tests = [(sign, bound, holds) for sign, bound, holds in bounds if bound is not None]

    def convert(value: Any) -> Any:
        kept = value if type(value) in rule.exact else rule.convert(value)
        if all(holds(kept, bound) for _, bound, holds in tests):
            return kept
        raise _Mismatch

    return _Rule(
        frozenset(),
        convert,
        rule.expected + " and".join(f" {sign}" + ("" if bound is True else f" {bound}") for sign, bound, _ in tests),
    )


def _scalar(value: Any) -> Any:
    """Return a zero-dimensional array of any library as the Python number it holds, anything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def _integer(value: Any) -> int:
    plain = _scalar(value)
    if isinstance(plain, Integral) and not isinstance(plain, bool):
        return int(plain)
    raise _Mismatch


def as_number(value: Any) -> float | None:
    """Return a real number as Python's own (an int stays one), or None for anything else; booleans are no numbers."""
    plain = value if type(value) is float or type(value) is int else _scalar(value)
    if type(plain) is float or type(plain) is int:
        return plain
    if isinstance(plain, Real) and not isinstance(plain, bool):
        return float(plain)
    return None


def _number(value: Any) -> float:
    number = as_number(value)
    if number is None:
        raise _Mismatch
    return number


def _truth(value: Any) -> bool:
    plain = _scalar(value)
    if isinstance(plain, bool):
        return plain
    raise _Mismatch


def _text(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    raise _Mismatch


def _bytes(value: Any) -> bytes:
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise _Mismatch


def _instant(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    try:
        return msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        raise _Mismatch from None


def _nothing(value: Any) -> None:
    if value is not None:
        raise _Mismatch


_SIMPLE: Final[dict[Any, _Rule]] = {
    str: _Rule(frozenset({str}), _text, "text"),
    int: _Rule(frozenset({int}), _integer, "an integer"),
    float: _Rule(frozenset({float, int}), _number, "a number"),
    bool: _Rule(frozenset({bool}), _truth, "True or False"),
    bytes: _Rule(frozenset({bytes}), _bytes, "bytes"),
    datetime: _Rule(frozenset({datetime}), _instant, "a datetime or its RFC 3339 text"),
    type(None): _Rule(frozenset({type(None)}), _nothing, "None"),
}


# --- showing -------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=512)
def _defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.default is not msgspec.NODEFAULT:
            defaults[field.name] = field.default
        elif field.default_factory is not msgspec.NODEFAULT:
            defaults[field.name] = field.default_factory()
    return defaults


def _shown_fields(record: Record) -> Iterator[tuple[str, str]]:
    """Yield the fields that say something: those that are not at their default."""
    defaults = _defaults(type(record))
    for name in record.__struct_fields__:
        value, default = getattr(record, name), defaults.get(name, _MISSING)
        if value is default or (type(value) is type(default) and value == default):
            continue
        yield name, "<secret>" if name in record._secrets else short(value)


def short(value: Any) -> str:
    """Return a representation of at most a few lines, however much ``value`` holds."""
    if isinstance(value, str) and len(value) > _SHOWN_TEXT:
        return f"{value[:_SHOWN_TEXT]!r}... <{len(value)} characters>"
    if isinstance(value, (bytes, bytearray)):
        return f"<{len(value)} bytes>"
    if isinstance(value, (list, tuple)):
        return _short_list(value)
    if isinstance(value, dict):
        shown = [f"{key!r}: {short(item)}" for key, item in list(value.items())[:_SHOWN_ITEMS]]
        more = [f"... <{len(value)} in all>"] if len(value) > _SHOWN_ITEMS else []
        return f"{{{', '.join(shown + more)}}}"
    if isinstance(value, np.ndarray) and value.size > _SHOWN_ITEMS:
        return f"<{value.dtype} array of shape {list(value.shape)}>"
    text = repr(value)
    return text if isinstance(value, msgspec.Struct) or len(text) <= 200 else f"{text[:200]}..."


def _short_list(value: list[Any] | tuple[Any, ...]) -> str:
    limit = 2 if value and isinstance(value[0], msgspec.Struct) else _SHOWN_ITEMS
    more = [f"... <{len(value)} in all>"] if len(value) > limit else []
    return f"[{', '.join([short(item) for item in value[:limit]] + more)}]"
