"""A token is used while it lives, and renewed in time by the server's own clock."""

from __future__ import annotations

import base64
import json
import math

import pytest

from tinkex_actors.machines.tokens import Token, claims, failed, is_jwt, received, what_to_do


def jwt(**said: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part(said)}.sig"


@pytest.mark.parametrize(("u", "renew_at"), [(0.0, 1450.0), (0.5, 1500.0), (0.999, 1549.9)])
def test_life_is_counted_from_the_moment_the_token_came(u: float, renew_at: float) -> None:
    # A server whose clock is years away.
    token = received(jwt(iat=5, exp=1005), now=1000.0, u=u)

    assert token.expires_at == 2000.0
    assert token.renew_at == pytest.approx(renew_at)


@pytest.mark.parametrize(
    "text",
    [jwt(), jwt(iat=1), jwt(iat=2, exp=1), jwt(iat="1", exp=9), jwt(iat=True, exp=9), "eyJ", "eyJ.!.x", "eyJ.W10.x"],
)
def test_a_token_that_says_nothing_useful_is_renewed_after_a_minute(text: str) -> None:
    assert received(text, now=1.0, u=0.5) == Token(text, expires_at=math.inf, renew_at=61.0)


@pytest.mark.parametrize(
    ("now", "expected"), [(0.0, "use"), (49.0, "use"), (50.0, "renew"), (39.9 + 100, "renew"), (140.0, "must_renew")]
)
def test_what_to_do_with_it(now: float, expected: str) -> None:
    assert what_to_do(Token("t", expires_at=200.0, renew_at=50.0), now) == expected
    assert what_to_do(None, now) == "must_renew"


def test_a_renewal_that_failed_is_tried_again_after_a_minute() -> None:
    token = Token("t", expires_at=1000.0, renew_at=50.0)
    failed(token, 60.0)

    assert [what_to_do(token, now) for now in (60.0, 119.0, 120.0)] == ["use", "use", "renew"]


def test_claims_are_read_and_never_shown() -> None:
    text = jwt(sub="me", exp=5)

    assert claims(text) == {"sub": "me", "exp": 5}
    assert is_jwt(text)
    assert not is_jwt("tml-abc")
    assert text not in repr(received(text, 0.0, 0.0))
