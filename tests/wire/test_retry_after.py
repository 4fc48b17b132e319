"""Retry-After in all its forms, and those that say nothing."""

from __future__ import annotations

import pytest

from tinkex_actors.wire.classification import classify
from tinkex_actors.wire.exchange import Response

NOW = "Sun, 22 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "20.5", "retry-after": "9"}, 0.0205),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT", "date": NOW}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 +0200", "date": NOW}, 30.0),
        ({"retry-after": "Sunday, 22-Nov-26 10:00:30 GMT", "date": NOW}, 30.0),
        ({"retry-after": "Sun Nov 22 10:00:30 2026", "date": NOW}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 09:00:00 GMT", "date": NOW}, 0.0),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT"}, None),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT", "date": "today"}, None),
        ({"retry-after": "Sun, 99 Nov 2026 10:00:30 GMT", "date": NOW}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "later"}, None),
        ({}, None),
    ],
)
def test_every_form_is_seconds(headers: dict[str, str], seconds: float | None) -> None:
    assert classify(Response(429, headers), "x").retry_after == seconds
