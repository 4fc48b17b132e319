"""No credential survives, wherever it stands and however it is wrapped; what is none is left alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.redaction import MASK, hide, redact, redact_event, redact_value

KEY = "tml-Abc123_secret-part"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"the key {KEY} is not accepted", "the key *** is not accepted"),
        (f"Authorization: Bearer {JWT}", "Authorization: ***"),
        (f"got {JWT}.", "got ***."),
        ("hf_abcdefghijklmnopqrst", "***"),
        ("X-API-Key: of-my-own", "X-API-Key: ***"),
        ("{'x-api-key': 'of-my-own', 'accept': 'x'}", "{'x-api-key': '***', 'accept': 'x'}"),
        ('{"api_key": "with a space", "b": 1}', '{"api_key": "***", "b": 1}'),
        (json.dumps('{"password": "hunter2", "x": 1}'), json.dumps('{"password": "***", "x": 1}')),
        ("[(b'Proxy-Authorization', b'Basic dXNlcg==')]", "[(b'Proxy-Authorization', b'***')]"),
        ("via http://user:pass@proxy.test:3128/ and back", "via http://***@proxy.test:3128/ and back"),
        ("TINKER_API_KEY=plain next", "TINKER_API_KEY=*** next"),
        ("sent with Basic dXNlcjpwYXNzMQ==", "sent with Basic ***"),
        ("https://b.test/f?X-Amz-Signature=ab12&part=2", "https://b.test/f?X-Amz-Signature=***&part=2"),
        ("cf-access-client-secret=abc;", "cf-access-client-secret=***;"),
    ],
)
def test_a_credential_in_a_text_is_masked(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "expected it to start with 'tml-' (or 'eyJ' for a JWT)",
        "Set TINKER_API_KEY or pass api_key=... to ServiceClient",
        "Config(api_key=None, timeout=60.0)",
        "max_tokens=64 stop_token=3 session_id=sess-1 idempotency key abc",
        "a basic understanding of the bearer of news",
        "https://tinker.test/api/v1/asample?limit=3",
        "tinker://run-1/weights/step-10",
    ],
)
def test_what_is_no_credential_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_a_credential_of_no_known_shape_is_hidden_until_its_owner_ends() -> None:
    first, second = hide("correct horse battery"), hide("correct horse battery")
    first()
    first()  # taking back twice is once
    assert redact("it is correct horse battery!") == "it is ***!"
    second()
    assert redact("it is correct horse battery!") == "it is correct horse battery!"


def test_a_key_that_begins_with_another_leaves_no_end_behind() -> None:
    ends = [hide("password1"), hide("password1-and-more")]
    try:
        assert redact("password1-and-more") == MASK
    finally:
        for end in ends:
            end()


@pytest.mark.parametrize("placeholder", [None, "", "dummy", "1234567"])
def test_a_placeholder_is_not_cut_out_of_everything(placeholder: str | None) -> None:
    take_back = hide(placeholder)
    assert redact("a dummy 1234567") == "a dummy 1234567"
    take_back()


def test_a_value_under_a_secret_s_name_is_masked_whole() -> None:
    value = {"headers": {"X-API-Key": ["a", "b"], "Accept": "x"}, "tokens": [1, 2], "password": "", "api_key": None}
    assert redact_value(value) == {
        "headers": {"X-API-Key": MASK, "Accept": "x"},
        "tokens": [1, 2],
        "password": "",
        "api_key": None,
    }


class Careless:
    def __repr__(self) -> str:
        return f"Careless(key={KEY!r})"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_objects_are_kept_unless_their_text_shows_a_credential() -> None:
    fine = object()
    assert redact_value(fine) is fine
    assert redact_value(Careless()) == "Careless(key='***')"
    assert redact_value(ValueError(KEY)) == "ValueError('***')"
    broken = Broken()
    assert redact_value({"a": broken}) == {"a": broken}


def test_a_container_that_holds_itself_ends() -> None:
    ring: list[Any] = [1]
    ring += [ring, ring]
    assert redact_value(ring) == [1, "...", "..."]


def test_what_is_nested_very_deep_is_searched_as_text() -> None:
    value: Any = KEY
    for _ in range(50):
        value = [value]
    assert KEY not in repr(redact_value(value))


def test_a_log_line_s_error_becomes_a_traceback_without_credentials() -> None:
    try:
        raise ValueError(f"bad {KEY}")
    except ValueError as error:
        lines = [
            redact_event(None, "error", {"event": "x", "exc_info": given})
            for given in (error, True, (None, error, None))
        ]
    for line in lines:
        assert set(line) == {"event", "exception"}
        assert line["exception"].startswith("Traceback (most recent call last):")
        assert line["exception"].endswith("ValueError: bad ***")
    assert redact_event(None, "error", {"event": "x", "exc_info": None}) == {"event": "x"}


KEYS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=8, max_size=40)
LEAVES = st.one_of(st.none(), st.integers(), st.text(max_size=20))
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner))


@given(body=KEYS, before=st.text(max_size=30), after=st.text(max_size=30))
@settings(deadline=None, max_examples=200)
def test_no_key_survives_any_surroundings(body: str, before: str, after: str) -> None:
    # The key of this server has any shape, and so must be known; what stands around it may be anything.
    take_back = hide(body)
    try:
        assert body not in redact(f"{before}{body}{after}").replace(MASK, "") or body in f"{before}{after}"
        assert body not in redact(f"{before} {body} {after}").replace(MASK, " ") or body in f"{before} {after}"
    finally:
        take_back()


@given(value=VALUES, body=KEYS)
@settings(deadline=None, max_examples=200)
def test_no_key_survives_in_any_container(value: object, body: str) -> None:
    key = f"tml-{body}"
    assert key not in repr(redact_value([value, {"at": (value, f"<{key}>"), key: {key}}, (key,)]))
