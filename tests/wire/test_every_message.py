"""Every message of every route comes back equal from what it was written to, with any values its type allows.

The values are drawn from the annotations of the types. Training passes and samples, which hold arrays, have
``test_round_trips``.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from tests.wire.golden_cases import REQUESTS
from tinkex_actors import types as t
from tinkex_actors.errors import InputError
from tinkex_actors.wire.answers import Ready
from tinkex_actors.wire.client import decode_poll, decode_response, encode_request
from tinkex_actors.wire.dialect import HOSTED, JSON
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import decode_request, encode_response, encode_result, match

ARRAYS = ("asample", "forward", "forward_backward", "stream_sample")
MINIMAL = msgspec.structs.replace(JSON, minimal=True)

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
VISIBLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(2**53), 2**53)
FREE = st.recursive(
    st.none() | st.booleans() | INTEGERS | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: INTEGERS,
    float: NUMBERS,
    bool: st.booleans(),
    Any: FREE,
    type(None): st.none(),
    bytes: st.binary(max_size=5),
    datetime: st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
}
# What an annotation leaves open and the type itself checks.
NAMED: dict[str, st.SearchStrategy[Any]] = {
    "optimizer_config": st.sampled_from([t.AdamOptimizerConfig(), t.DimuonOptimizerConfig(version=2), {"type": "sgd"}]),
    "optimizer_params": st.none() | st.sampled_from([t.DimuonParams(learning_rate=0.5), {"type": "sgd", "lr": 1.5}]),
    "day": st.none() | st.dates().map(str),
    # These travel as headers.
    "weights_access_token": st.none() | VISIBLE,
    "url": VISIBLE,
    "CheckpointArchiveUrlResponse.expires": VISIBLE | st.none(),
}


def drawn(hint: Any) -> st.SearchStrategy[Any]:
    """Return the values of an annotation."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in SIMPLE:
        return SIMPLE[hint]
    if origin is typing.Annotated:
        return bounded(arguments[0], next(extra for extra in arguments[1:] if isinstance(extra, msgspec.Meta)))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(drawn, arguments))
    if origin in (list, Sequence):
        return st.lists(drawn(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(TEXT, drawn(arguments[1]), max_size=3)
    return records(hint)


def bounded(hint: Any, meta: msgspec.Meta) -> st.SearchStrategy[Any]:
    if hint is int:
        return st.integers(meta.ge if meta.ge is not None else -(2**53), meta.le if meta.le is not None else 2**53)
    sizes = {"min_size": meta.min_length or 0, "max_size": min(meta.max_length or 8, 8)}
    if hint is str:
        return st.text(st.characters(codec="utf-8"), **sizes)
    return drawn(hint) if meta.tz else st.lists(drawn(typing.get_args(hint)[0]), **sizes)


@st.composite
def records(draw: Any, kind: Any) -> Any:
    """Draw a record; combinations that its type refuses are not used."""
    hints = typing.get_type_hints(kind, include_extras=True)
    values = {}
    for name in kind.__struct_fields__:
        special = NAMED.get(f"{kind.__name__}.{name}", NAMED.get(name))
        values[name] = draw(drawn(hints[name]) if special is None else special)
    try:
        return kind(**values)
    except InputError:
        reject()


def said(message: Any) -> Any:
    """Return a message in which an optional flag that is off is not said: minimal bodies do not tell the two apart."""
    return msgspec.structs.replace(
        message,
        **{
            field.name: None
            for field in msgspec.structs.fields(message)
            if field.default is None and getattr(message, field.name) is False
        },
    )


REQUEST_ROUTES = [name for name, route in ROUTES.items() if route.request is not None and name not in ARRAYS]
ANSWER_ROUTES = [name for name, route in ROUTES.items() if route.response is not None]
RESULT_ROUTES = [name for name, route in ROUTES.items() if route.asynchronous and name not in ARRAYS]


@pytest.mark.parametrize("dialect", [HOSTED, MINIMAL], ids=["hosted", "minimal"])
@pytest.mark.parametrize("name", REQUEST_ROUTES)
def test_a_request_comes_back(name: str, dialect: Any) -> None:
    route, parameters = ROUTES[name], REQUESTS[name][1]

    @settings(deadline=None, max_examples=25)
    @given(records(route.request))
    def comes_back(message: Any) -> None:
        sent = encode_request(route, message, dialect, path=parameters)

        assert match(sent) == (route, parameters)
        assert said(decode_request(route, sent)) == said(message)

    comes_back()


@pytest.mark.parametrize("name", ANSWER_ROUTES)
def test_an_answer_comes_back(name: str) -> None:
    route = ROUTES[name]

    @settings(deadline=None, max_examples=25)
    @given(records(route.response))
    def comes_back(message: Any) -> None:
        assert decode_response(route, encode_response(route, message)) == message

    comes_back()


@pytest.mark.parametrize("name", RESULT_ROUTES)
def test_a_result_comes_back(name: str) -> None:
    route = ROUTES[name]

    @settings(deadline=None, max_examples=25)
    @given(records(route.result))
    def comes_back(message: Any) -> None:
        assert decode_poll(route, encode_result(route, message, "application/json"), JSON) == Ready(message)

    comes_back()
