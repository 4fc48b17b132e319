"""Many requests decoded together: each as if it were alone, none in the way of another, in few compiled programs."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from tests.plugins.numerics import adapter, tiny, tokens
from tinkex_actors.engine.core import (
    Adapter,
    BaseModel,
    DecodeParams,
    Decoder,
    Drawing,
    Sampled,
    prompt_logprobs,
    sample,
)
from tinkex_actors.engine.core.sampling import decoding
from tinkex_actors.errors import ClosedError

# They compile, which takes seconds until the cache is warm.
pytestmark = pytest.mark.slow

PROMPT = tokens(20, seed=4)
HELD = adapter()
SEEDED = DecodeParams(max_tokens=40, seed=7)


def asked(
    params: DecodeParams = SEEDED,
    *,
    count: int = 1,
    prompt: int = 0,
    exact: bool = False,
    held: Adapter | None = HELD,
) -> Drawing:
    """A request; ``prompt`` other than 0 is the seed of another prompt, 3 to 40 tokens long."""
    text = PROMPT if prompt == 0 else tokens(3 + prompt * 7 % 38, seed=100 + prompt)
    return Drawing(tiny(), held, text, count, params, exact=exact)


def answered(decoder: Decoder, *drawings: Drawing) -> list[list[Sampled]]:
    """Decode until these are over."""
    while not all(drawing.over for drawing in drawings):
        decoder.step()
    return [drawing.result() for drawing in drawings]


def assert_true(drawing: Drawing, result: list[Sampled]) -> None:
    """Hold the logprobs against the full forward pass: a row in the wrong place or with others' keys would fail."""
    for answer in result:
        whole = np.concatenate([drawing.prompt, answer.tokens])
        scored = prompt_logprobs(drawing.base, drawing.adapter, whole)[drawing.prompt.size :]
        np.testing.assert_allclose(scored, answer.logprobs, atol=1e-4)


def same_bits(one: list[Sampled], other: list[Sampled]) -> bool:
    return len(one) == len(other) and all(
        (a.tokens.tobytes(), a.logprobs.tobytes(), a.stop_reason)
        == (b.tokens.tobytes(), b.logprobs.tobytes(), b.stop_reason)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("count", [1, 3, 16])
def test_a_seeded_request_is_the_same_in_every_bit_among_sixteen_others(count: int) -> None:
    stops = replace(SEEDED, stop_token_ids=frozenset(range(0, 512, 32)))
    by_itself = sample(tiny(), HELD, PROMPT, count, stops)
    for started in (0, 2):
        decoder = Decoder()
        others = [
            asked(DecodeParams(max_tokens=10 + number, seed=number), prompt=number + 1, exact=number % 4 == 0)
            for number in range(16)
        ]
        for other in others[:8]:
            decoder.add(other)
        for _ in range(started):
            decoder.step()
        mine = asked(stops, count=count, exact=True)
        decoder.add(mine)
        for other in others[8:]:
            decoder.add(other)
        assert same_bits(answered(decoder, mine)[0], by_itself)
        answered(decoder, *others)


def test_a_seeded_answer_is_the_same_in_every_bit_in_any_place_and_at_any_time() -> None:
    by_itself = sample(tiny(), HELD, PROMPT, 1, SEEDED)
    for before in range(8):
        decoder = Decoder()
        longer = DecodeParams(max_tokens=100, seed=99)
        others = [asked(replace(longer, seed=number), prompt=number + 1, exact=True) for number in range(before)]
        for other in others:
            decoder.add(other)
        for _ in range(before % 3):
            decoder.step()
        mine = asked(exact=True)
        decoder.add(mine)
        assert same_bits(answered(decoder, mine)[0], by_itself)


def test_seeded_requests_take_turns_together() -> None:
    decoder = Decoder()
    drawings = [asked(replace(SEEDED, seed=number, max_tokens=32), exact=True) for number in range(8)]
    for drawing in drawings:
        decoder.add(drawing)
    for _ in range(2):
        decoder.step()
    # 16 tokens a step: eight at a time, as fast as one.
    assert all(drawing.over for drawing in drawings)


def test_a_prompt_is_read_once_for_all_who_ask_it() -> None:
    decoder = Decoder()
    same = [asked(replace(SEEDED, seed=number), count=3, exact=number % 2 == 0) for number in range(20)]
    for drawing in (*same, asked(prompt=1), asked(held=None)):
        decoder.add(drawing)
    answered(decoder, *same)
    assert decoder.prompts_read == 3
    # Also when it comes again later, and not for ever.
    again = asked()
    decoder.add(again)
    assert_true(again, answered(decoder, again)[0])
    assert decoder.prompts_read == 3
    for number in range(60):
        decoder.add(Drawing(tiny(), HELD, tokens(40, seed=number), 1, DecodeParams(max_tokens=1), exact=False))
    decoder.add(last := asked())
    assert_true(last, answered(decoder, last)[0])
    assert decoder.prompts_read == 3 + 60 + 1


def test_answers_that_share_rows_are_each_their_own_text() -> None:
    decoder = Decoder()
    drawings = []
    for number in range(40):
        params = DecodeParams(max_tokens=5 + number * 11 % 60, seed=number)
        drawings.append(asked(params, count=1 + number % 3, prompt=number + 1))
        decoder.add(drawings[-1])
        # They come while others are decoded: the ring wraps, the groups grow and shrink.
        for _ in range(number % 3):
            decoder.step()
    for drawing, result in zip(drawings, answered(decoder, *drawings), strict=True):
        assert [answer.tokens.size for answer in result] == [drawing.limit] * len(drawing.answers)
        assert_true(drawing, result)
    assert not decoder.busy


def test_adapters_and_limits_do_not_mix() -> None:
    other = adapter(seed=5)
    kinds = [
        asked(held=None),
        asked(held=HELD),
        asked(held=other),
        asked(replace(SEEDED, top_k=1)),
        asked(replace(SEEDED, temperature=0.0)),
        asked(replace(SEEDED, max_tokens=300)),
    ]
    decoder = Decoder()
    for drawing in kinds:
        decoder.add(drawing)
    results = answered(decoder, *kinds)
    for drawing, result in zip(kinds, results, strict=True):
        assert_true(drawing, result)
    # The likeliest token, chosen in two ways.
    assert results[3][0].tokens.tolist() == results[4][0].tokens.tolist()
    assert len({tuple(result[0].tokens.tolist()) for result in results[:3]}) == 3


def test_sixteen_requests_take_the_calls_of_one() -> None:
    def calls(together: int) -> int:
        decoder, steps = Decoder(), 0
        drawings = [asked(DecodeParams(max_tokens=32, seed=number)) for number in range(together)]
        for drawing in drawings:
            decoder.add(drawing)
        while decoder.busy:
            decoder.step()
            steps += 1
        return steps

    assert calls(16) == calls(1) == 2


def test_a_large_request_does_not_hold_up_a_small_one() -> None:
    for exact in (False, True):
        decoder = Decoder()
        large = asked(DecodeParams(max_tokens=64, seed=1), count=200, exact=exact)
        decoder.add(large)
        decoder.step()
        small = asked(DecodeParams(max_tokens=8, seed=2), prompt=1)
        decoder.add(small)
        steps = 0
        while not small.over:
            decoder.step()
            steps += 1
        # Of the 52 that the large one takes.
        assert steps <= 8
        assert not large.over
        assert len(answered(decoder, large)[0]) == 200


def test_nobody_who_waits_for_memory_is_overtaken() -> None:
    decoder = Decoder()
    ended: list[Drawing] = []
    # Each of the wide ones takes half of all cells, since weights are not shared, and ends soon; beside the lasting one
    # there is room for one of them.
    lasting = asked(DecodeParams(max_tokens=480, seed=9), count=4, exact=True)
    roomy = DecodeParams(max_tokens=1500, stop_token_ids=frozenset(range(0, 512, 8)))
    wide = [
        asked(replace(roomy, seed=number), count=4, exact=True, held=adapter(seed=number + 1)) for number in range(3)
    ]
    late = asked(DecodeParams(max_tokens=10, seed=9))
    for drawing in (lasting, *wide, late):
        decoder.add(drawing)
    while decoder.busy:
        ended += [drawing for drawing in decoder.step() if drawing.over]
    # Small enough to fit beside them at once, the last one waits until those before it have their places.
    assert ended.index(wide[0]) < ended.index(wide[1]) < ended.index(late) < ended.index(lasting)
    assert all(drawing.error is None for drawing in (lasting, *wide, late))


def test_a_request_that_is_given_up_makes_room_at_the_next_chunk() -> None:
    decoder = Decoder()
    stopped: set[int] = set()
    drawings = [
        Drawing(tiny(), HELD, PROMPT, 2, SEEDED, exact=exact, should_stop=lambda at=at: at in stopped)
        for at, exact in enumerate([False, True, False, True])
    ]
    for drawing in drawings:
        decoder.add(drawing)
    for _ in range(2):
        decoder.step()
    stopped |= {0, 1}
    for drawing in drawings[:2]:
        while not drawing.over:
            decoder.step()
        with pytest.raises(ClosedError, match="abandoned after 16 tokens"):
            drawing.result()
    for drawing, result in zip(drawings[2:], answered(decoder, *drawings[2:]), strict=True):
        assert_true(drawing, result)
    assert not decoder.busy


def test_one_that_waits_is_given_up_too() -> None:
    decoder = Decoder()
    roomy = DecodeParams(max_tokens=1500)
    running = [asked(roomy, count=4, exact=True, held=adapter(seed=number + 1)) for number in range(2)]
    waiting = Drawing(tiny(), HELD, PROMPT, 1, SEEDED, exact=True, should_stop=lambda: True)
    for drawing in running:
        decoder.add(drawing)
    decoder.step()
    decoder.add(waiting)
    assert waiting in decoder.step()
    with pytest.raises(ClosedError, match="abandoned after 0 tokens"):
        waiting.result()


def test_a_failing_stop_check_ends_its_own_request_alone() -> None:
    def check(prefix: list[int]) -> bool:
        raise ValueError(f"no text after {len(prefix)}")

    decoder = Decoder()
    broken = Drawing(tiny(), HELD, PROMPT, 1, SEEDED, exact=False, stop_check=check)
    beside = asked()
    decoder.add(broken)
    decoder.add(beside)
    (result,) = answered(decoder, beside)
    assert_true(beside, result)
    with pytest.raises(ValueError, match="no text after 1"):
        broken.result()


def test_a_failing_model_ends_those_it_happened_to_and_leaves_the_decoder_whole() -> None:
    base = tiny()
    broken = BaseModel(
        base.name, base.config, base.tokenizer, base.weights._replace(embedding=base.weights.embedding[0])
    )
    decoder = Decoder()
    failing = [
        Drawing(broken, HELD, PROMPT, 1, SEEDED, exact=True),
        Drawing(broken, HELD, PROMPT, 1, SEEDED, exact=True),
    ]
    good = asked()
    for drawing in (*failing, good):
        decoder.add(drawing)
    answered(decoder, good)
    for drawing in failing:
        with pytest.raises((TypeError, ValueError)):
            drawing.result()
    assert not decoder.busy


def test_a_crowd_of_all_sizes_compiles_no_more_than_the_buckets() -> None:
    held = adapter(rank=3)
    programs = {
        "_next_layer": (decoding._next_layer, 5),  # rows
        "_draw": (decoding._draw, 5),
        "_read_layer": (decoding._read_layer, 2),  # lengths of prompts
        "_seat_layer": (decoding._seat_layer, 2 * 5),
        "_take": (decoding._take, 3 * 5 * 4),  # hidden states, keys and values; from and to
    }
    before = {name: program._cache_size() for name, (program, _) in programs.items()}
    rng = random.Random(1)
    decoder = Decoder()
    drawings: list[Drawing] = []
    for number in range(80):
        params = DecodeParams(
            max_tokens=rng.randint(5, 80),
            temperature=rng.choice([0.0, 0.7, 1.0]),
            seed=number,
            stop_token_ids=frozenset(range(rng.randint(0, 8))),
        )
        exact = rng.random() < 0.3
        drawings.append(asked(params, count=rng.randint(1, 5), prompt=rng.randint(1, 60), exact=exact, held=held))
        decoder.add(drawings[-1])
        for _ in range(rng.randint(0, 2)):
            decoder.step()
    answered(decoder, *drawings)
    for name, (program, most) in programs.items():
        assert program._cache_size() - before[name] <= most, name
