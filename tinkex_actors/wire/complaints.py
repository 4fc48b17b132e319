"""What a refusal asks for, read from the bodies that validators write: fields missing, unknown, or of a wrong form."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

__all__ = ["carries", "fields_wanted_as_lists", "missing_fields", "unknown_fields"]

# pydantic 2 and 1.
_MISSING_TYPES: Final = ("missing", "value_error.missing")
_LIST_TYPES: Final = ("list_type", "type_error.list")
_EXTRA_TYPES: Final = ("extra_forbidden", "value_error.extra")
# serde and Go; msgspec; JSON Schema validators.
_MISSING: Final = re.compile(
    r"missing (?:required )?field [`'\"](?P<name>[\w.]+)[`'\"](?: - at `\$\.?(?P<place>[^`]*)`)?"
)
_REQUIRED: Final = re.compile(r"'(?P<name>\w+)' is a required property")
_NOT_A_LIST: Final = re.compile(r"Expected `array(?: \| null)?`, got `\w+` - at `\$\.?(?P<place>[^`]*)`")
_UNKNOWN: Final = re.compile(r"unknown field [`'\"](?P<name>[\w.]+)[`'\"](?: - at `\$\.?(?P<place>[^`]*)`)?")
_UNEXPECTED: Final = re.compile(r"[Aa]dditional properties are not allowed \((?P<names>.*?) (?:was|were) unexpected\)")
_POSITION: Final = re.compile(r"\[[^\]]*\]")

# Notes for people, and offers that a server need not take up: without them nothing else goes wrong.
_NOTES: Final = frozenset(
    {
        "allow_metadata_only",
        "display_name",
        "record_stability_info",
        "sdk_version",
        "tags",
        "type",
        "user_metadata",
    }
)


def missing_fields(body: object) -> tuple[str, ...]:
    """Return the fields that a refusal misses, as dotted paths without positions in lists.

    Understood: the ``detail`` list of FastAPI, and the sentences of serde, Go, msgspec and JSON Schema validators.

    Args:
        body: the refusal's parsed body, as ``APIStatusError.body`` has it.
    """
    named = _listed(body, _MISSING_TYPES)
    if named is None:
        text = _words(body)
        named = [_joined(hit["place"] or "", hit["name"]) for hit in _MISSING.finditer(text)]
        named += [hit["name"] for hit in _REQUIRED.finditer(text)]
    return tuple(dict.fromkeys(filter(None, named)))


def fields_wanted_as_lists(body: object) -> tuple[str, ...]:
    """Return the fields that a refusal wants as lists, as :func:`missing_fields` does."""
    named = _listed(body, _LIST_TYPES)
    if named is None:
        named = [_POSITION.sub("", hit["place"]) for hit in _NOT_A_LIST.finditer(_words(body))]
    return tuple(dict.fromkeys(filter(None, named)))


def unknown_fields(body: object) -> tuple[str, ...]:
    """Return the fields that a refusal does not know, as :func:`missing_fields` does."""
    named = _listed(body, _EXTRA_TYPES)
    if named is None:
        text = _words(body)
        named = [_joined(hit["place"] or "", hit["name"]) for hit in _UNKNOWN.finditer(text)]
        for hit in _UNEXPECTED.finditer(text):
            named += re.findall(r"'([^']+)'", hit["names"])
    return tuple(dict.fromkeys(filter(None, named)))


def carries(message: Any, path: str) -> bool:
    """Whether a field of a message says something that would be lost if it were left out.

    A field does not, where it holds its default, nothing, or a note for people; nor does one that the message's type
    does not have, such as a tag that the encoding adds.

    Args:
        message: the Struct as it was to be sent.
        path: dotted, as :func:`missing_fields` gives it.
    """
    names = path.split(".")
    if names[0] in _NOTES:
        return False
    for name in names[:-1]:
        message = getattr(message, name, None)
    if not isinstance(message, msgspec.Struct):
        return _inside_a_list(message)
    value = getattr(message, names[-1], None)
    if value is None or value in ((), [], {}) or names[-1] in _NOTES:
        return False
    defaults = {field.name: _default(field) for field in msgspec.structs.fields(message)}
    return names[-1] in defaults and not _equal(value, defaults[names[-1]])


def _inside_a_list(value: object) -> bool:
    # The elements differ; only a tag is known to say nothing, and a tag is no field.
    return value is not None


def _default(field: Any) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def _equal(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _listed(body: object, kinds: tuple[str, ...]) -> list[str] | None:
    """The places in a FastAPI body of errors of these kinds; None for another body."""
    detail = body.get("detail") if isinstance(body, dict) else None
    if not isinstance(detail, list):
        return None
    places = [item.get("loc") for item in detail if isinstance(item, dict) and item.get("type") in kinds]
    return [_path(place) for place in places if isinstance(place, list)]


def _path(place: list[Any]) -> str:
    below = place[1:] if place[:1] == ["body"] else place
    return ".".join(str(part) for part in below if not isinstance(part, int))


def _words(body: object) -> str:
    while isinstance(body, dict):
        body = next((body[key] for key in ("detail", "error", "message") if body.get(key)), "")
    return body if isinstance(body, str) else ""


def _joined(place: str, name: str) -> str:
    place = _POSITION.sub("", place)
    return f"{place}.{name}" if place else name
