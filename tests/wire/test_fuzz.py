"""Whatever a server answers is read or refused, with one family of errors, in memory that the body's size bounds.

Every seed takes one answer of the golden files, damages it, and gives it to everything that reads answers. A failure
names its seed; ``TINKEX_TEST_SEEDS`` sets how many there are (``make soak``: 100,000).
"""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.wire.golden_files import FOLDER, read_response
from tinkex_actors.errors import APIStatusError, TinkexError
from tinkex_actors.testing.virtual_time import SEEDS_VARIABLE
from tinkex_actors.types import ForwardBackwardOutput, SampleResponse
from tinkex_actors.wire._proto import tinker_public_pb2 as pb
from tinkex_actors.wire.answers import Ready
from tinkex_actors.wire.client import decode_poll, decode_response
from tinkex_actors.wire.complaints import fields_wanted_as_lists, missing_fields, unknown_fields
from tinkex_actors.wire.dialect import HOSTED
from tinkex_actors.wire.exchange import Response
from tinkex_actors.wire.prompts import aligned
from tinkex_actors.wire.routes import ROUTES

SEEDS = int(os.environ.get(SEEDS_VARIABLE, "4000"))
ANSWERS = [
    path.name.removesuffix(".json")
    for path in sorted(FOLDER.glob("*.json"))
    if path.name.split(".")[1] in ("response", "result") or path.name.startswith("poll.")
]
POLLED = [name for name, route in ROUTES.items() if route.asynchronous]
MEDIA = ("", "application/json", "application/x-protobuf", "text/html", "text/plain; charset=latin-1", "image/png")
STATUSES = (200, 200, 200, 201, 202, 204, 302, 400, 401, 402, 404, 408, 409, 410, 422, 429, 500, 502, 503)
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 2**70, -(2**63), 1e400, "", "x", "nan", "\x00", "\ud800", [], [None], [[1], [1, 2]], {},
    {"type": "x"}, {"": {}}, "9" * 5000, ["x"] * 1000,
)  # fmt: skip

Damage = Callable[[np.random.Generator, Response], None]


def cut(random: np.random.Generator, response: Response) -> None:
    response.body = response.body[: int(random.integers(len(response.body) + 1))]


def flip(random: np.random.Generator, response: Response) -> None:
    body = bytearray(response.body or b" ")
    for _ in range(random.integers(1, 5)):
        body[int(random.integers(len(body)))] = int(random.integers(256))
    response.body = bytes(body)


def splice(random: np.random.Generator, response: Response) -> None:
    body = response.body
    at, end = sorted(int(random.integers(len(body) + 1)) for _ in range(2))
    response.body = body[:at] + random.bytes(int(random.integers(9))) + body[end:]


def repeat(random: np.random.Generator, response: Response) -> None:
    body = response.body
    at, end = sorted(int(random.integers(len(body) + 1)) for _ in range(2))
    response.body = body[:at] + body[at:end] * int(random.integers(2, 30)) + body[end:]


def retype(random: np.random.Generator, response: Response) -> None:
    """Put something odd into one place of a JSON body."""
    try:
        value = json.loads(response.body)
    except (ValueError, RecursionError):
        return
    try:
        response.body = json.dumps(replaced(random, value)).encode("utf-8", "surrogatepass")
    except RecursionError:
        return


def replaced(random: np.random.Generator, value: Any) -> Any:
    if not isinstance(value, (dict, list)) or not value or random.integers(4) == 0:
        return ODD[int(random.integers(len(ODD)))]
    if isinstance(value, dict):
        key = list(value)[int(random.integers(len(value)))]
        if random.integers(4) == 0:
            return {other: item for other, item in value.items() if other != key}
        return {**value, key: replaced(random, value[key])}
    at = int(random.integers(len(value)))
    return [*value[:at], replaced(random, value[at]), *value[at + 1 :]]


def mislabel(random: np.random.Generator, response: Response) -> None:
    response.headers = {"content-type": MEDIA[int(random.integers(len(MEDIA)))]}


def restatus(random: np.random.Generator, response: Response) -> None:
    response.status = STATUSES[int(random.integers(len(STATUSES)))]


def nest(random: np.random.Generator, response: Response) -> None:
    depth = int(random.integers(1, 50_000))
    left, right = (b"[", b"]") if random.integers(2) else (b'{"error":', b"}")
    response.body = left * depth + b"1" + right * int(random.integers(2)) * depth


def swell(random: np.random.Generator, response: Response) -> None:
    filler = (b" ", b"[0,", b'"', b"\xff", b"{}")[int(random.integers(5))]
    response.body = response.body[:-1] + filler * int(random.integers(200_000)) + response.body[-1:]


def compress(random: np.random.Generator, response: Response) -> None:
    response.body = gzip.compress(response.body, mtime=0)


def noise(random: np.random.Generator, response: Response) -> None:
    response.body = random.bytes(int(random.integers(200)))


DAMAGES: tuple[Damage, ...] = (cut, flip, splice, repeat, retype, retype, mislabel, restatus, compress, noise)
COSTLY: tuple[Damage, ...] = (nest, swell)


@cache
def answer(name: str) -> Response:
    return read_response(name)


def damaged(seed: int) -> tuple[str, Response]:
    random = np.random.default_rng(seed)
    name = ANSWERS[int(random.integers(len(ANSWERS)))]
    whole = answer(name)
    response = Response(whole.status, dict(whole.headers), whole.body)
    for _ in range(random.integers(1, 4)):
        costly = random.integers(50) == 0
        kinds = COSTLY if costly else DAMAGES
        kinds[int(random.integers(len(kinds)))](random, response)
    return name.split(".")[0], response


def read_everywhere(seed: int) -> int:
    """Give a damaged answer to every reader of answers; return how many of them understood it."""
    name, response = damaged(seed)
    polled = name if name in POLLED else POLLED[seed % len(POLLED)]
    understood = 0
    refused: list[object] = []
    for read in (
        lambda: decode_response(ROUTES.get(name, ROUTES["create_model"]), response),
        lambda: decode_poll(ROUTES[polled], response, HOSTED),
    ):
        try:
            found = read()
            understood += 1
            if isinstance(found, Ready) and isinstance(found.result, SampleResponse):
                aligned(found.result, 3)
        except APIStatusError as error:
            refused.append(error.body)
        except TinkexError:
            pass
    for body in refused:
        for complaint in (unknown_fields, missing_fields, fields_wanted_as_lists):
            assert all(isinstance(field, str) for field in complaint(body))
    return understood


def test_any_answer_is_read_or_refused_by_one_family_of_errors() -> None:
    understood = 0
    for seed in range(SEEDS):
        try:
            understood += read_everywhere(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}: {damaged(seed)}")
            raise

    # The damage must neither be too light nor too heavy to tell anything.
    assert 0.1 * SEEDS < understood < 1.5 * SEEDS


def peak_bytes(read: Callable[[], Any]) -> int:
    """Return the most that a refused or successful reading held at once."""
    tracemalloc.start()
    try:
        read()
    except TinkexError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


MEGABYTE = 1 << 20
LIMIT = 8 * MEGABYTE


@pytest.mark.parametrize("seed", range(0, 400, 4))
def test_memory_is_bounded_by_the_body(seed: int) -> None:
    size = len(damaged(seed)[1].body)

    # Half of the factor is Python's: a list of numbers takes 32 times the text "0,".
    assert peak_bytes(lambda: read_everywhere(seed)) < LIMIT + 64 * size


def bomb_of_candidates() -> tuple[str, bytes, str]:
    # 200,000 rows, one of them with 50,000 candidates: 80 GB as a rectangle.
    rows = "null," * 200_000 + "[" + ",".join(["[1,-1.0]"] * 50_000) + "]"
    return "asample", f'{{"sequences":[],"topk_prompt_logprobs":[{rows}]}}'.encode(), "application/json"


def bomb_of_datums() -> tuple[str, bytes, str]:
    records = [pb.ArrayRecord(num_datums=90_000)] * 10_000
    return "forward", pb.ForwardBackwardOutput(loss_fn_outputs=records).SerializeToString(), "application/x-protobuf"


def bomb_of_shapes() -> tuple[str, bytes, str]:
    tensor = pb.Tensor(dense=b"", dtype=pb.DTYPE_FLOAT32, shape=[2**40, 2**40, 0])
    sparse = pb.Tensor(sparse_csr=pb.SparseCsr(crow_indices=b"\0" * 8), dtype=pb.DTYPE_INT64, shape=[2**50, 2**50])
    message = pb.SampleResponse(
        target_prompt_logprobs=sparse, prompt_alt_tokens=pb.PromptAltTokens(tokens=tensor, logprobs=tensor)
    )
    return "asample", message.SerializeToString(), "application/x-protobuf"


@pytest.mark.parametrize("bomb", [bomb_of_candidates, bomb_of_datums, bomb_of_shapes])
def test_a_small_answer_cannot_ask_for_a_large_memory(bomb: Callable[[], tuple[str, bytes, str]]) -> None:
    name, body, media = bomb()

    def read() -> None:
        decode_poll(ROUTES[name], Response(200, {"content-type": media}, body), HOSTED)

    assert peak_bytes(read) < 2 * LIMIT + 64 * len(body)
    with pytest.raises(TinkexError):
        read()


def test_bare_datums_up_to_a_chunks_size_are_read() -> None:
    body = pb.ForwardBackwardOutput(loss_fn_outputs=[pb.ArrayRecord(num_datums=1024)]).SerializeToString()

    answer = decode_poll(ROUTES["forward"], Response(200, {"content-type": "application/x-protobuf"}, body), HOSTED)

    assert answer == Ready(ForwardBackwardOutput("ArrayRecord", [{}] * 1024, {}))


def test_a_huge_failure_is_kept_short() -> None:
    with pytest.raises(APIStatusError) as caught:
        decode_response(ROUTES["get_info"], Response(500, {}, b"x" * (8 * MEGABYTE)))

    assert len(str(caught.value)) < 1000
    assert len(repr(caught.value.body)) < 100_000
