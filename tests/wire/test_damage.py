"""Damaged bytes and wrong types, on every route: what cannot be read raises a wire error, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinkex_actors.errors import APIError, RemoteWireError
from tinkex_actors.wire.client import decode_poll, decode_response
from tinkex_actors.wire.dialect import HOSTED
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import decode_request

GOLDEN = Path(__file__).parent / "golden"
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    2**70,
    -(2**63),
    "",
    "x",
    "nan",
    [],
    [None],
    [[1], [1, 2]],
    {},
    {"type": "x"},
)


def bodies(suffix: str) -> list[Any]:
    found = []
    for path in sorted(GOLDEN.glob(f"*.{suffix}.json")):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.get("body"):
            found.append(pytest.param(path.name.split(".")[0], stored["body"], id=path.name.removesuffix(".json")))
    return found


def mutated(body: bytes, seed: int, count: int) -> Iterator[bytes]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        data = bytearray(body)
        for _ in range(random.integers(1, 4)):
            at = int(random.integers(max(1, len(data))))
            change = random.integers(3)
            if change == 0:
                data[at : at + 1] = random.bytes(1)
            elif change == 1:
                del data[at : at + int(random.integers(1, 9))]
            else:
                data[at:at] = random.bytes(int(random.integers(1, 9)))
        yield bytes(data)


def replaced(value: Any) -> Iterator[Any]:
    """Every copy of a JSON value in which one place holds something odd, or lacks."""
    yield from ODD
    if isinstance(value, dict):
        for key in value:
            yield {other: item for other, item in value.items() if other != key}
            for item in replaced(value[key]):
                yield {**value, key: item}
    elif isinstance(value, list):
        for at in range(min(len(value), 2)):
            for item in replaced(value[at]):
                yield [*value[:at], item, *value[at + 1 :]]


def survives(read: Any, payloads: Iterator[bytes]) -> tuple[int, int]:
    """Read each payload; return how many were read and how many refused. Any other exception fails the test."""
    counts = [0, 0]
    for payload in payloads:
        try:
            read(payload)
            counts[0] += 1
        except (RemoteWireError, APIError):
            counts[1] += 1
    return counts[0], counts[1]


def payloads(body: Any) -> Iterator[bytes]:
    yield from (json.dumps(item).encode() for item in replaced(body))
    yield from mutated(json.dumps(body).encode(), seed=3, count=60)


@pytest.mark.parametrize(("name", "body"), bodies("response.200"))
def test_an_answer_is_read_or_refused(name: str, body: Any) -> None:
    read, refused = survives(lambda raw: decode_response(ROUTES[name], Response(200, {}, raw)), payloads(body))

    assert min(read, refused) > 0


@pytest.mark.parametrize(("name", "body"), bodies("result.200"))
def test_a_result_is_read_or_refused(name: str, body: Any) -> None:
    read, refused = survives(lambda raw: decode_poll(ROUTES[name], Response(200, {}, raw), HOSTED), payloads(body))

    assert min(read, refused) > 0


@pytest.mark.parametrize(("name", "body"), bodies("request"))
def test_a_request_is_read_or_refused(name: str, body: Any) -> None:
    def read(raw: bytes) -> Any:
        return decode_request(ROUTES[name], Request("POST", "", {"content-type": "application/json"}, raw))

    taken, refused = survives(read, payloads(body))

    assert min(taken, refused) > 0


def test_any_body_of_a_failure_is_classified() -> None:
    bodies = [
        json.dumps(item).encode()
        for item in replaced({"detail": [{"loc": ["body", "x"], "msg": "m"}], "category": "user"})
    ]
    for status in (400, 404, 429, 500):
        _, refused = survives(
            lambda raw, s=status: decode_response(ROUTES["get_info"], Response(s, {}, raw)), iter(bodies)
        )
        assert refused == len(bodies)
