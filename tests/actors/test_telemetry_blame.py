"""Whose fault it was: looked for along the whole chain of causes, which may be long, forked, or a ring."""

from __future__ import annotations

import asyncio

import pytest

from tinkex_actors import (
    APIConnectionError,
    APIStatusError,
    BadRequestError,
    ClosedError,
    InputError,
    InternalServerError,
    RequestFailedError,
)
from tinkex_actors.actors.telemetry.blame import user_error


class ForeignStatus(Exception):
    def __init__(self, status_code: object) -> None:
        super().__init__("foreign")
        self.status_code = status_code


def chained(
    outer: BaseException, *, cause: BaseException | None = None, context: BaseException | None = None
) -> BaseException:
    outer.__cause__ = cause
    outer.__context__ = context
    return outer


@pytest.mark.parametrize(
    ("error", "users"),
    [
        (BadRequestError("no", status_code=400), True),
        (APIStatusError("later", status_code=408), False),
        (APIStatusError("slower", status_code=429), True),
        (InternalServerError("oh", status_code=500), False),
        (RequestFailedError("yours", category="user"), True),
        (RequestFailedError("ours", category="server"), False),
        (ForeignStatus(404), True),
        (ForeignStatus(499), True),
        (ForeignStatus(500), False),
        (ForeignStatus("404"), False),
        (InputError("rank"), True),
        (ClosedError("closed"), True),
        (APIConnectionError("gone"), False),
        (ValueError("x"), False),
        (asyncio.CancelledError(), False),
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 30])
@pytest.mark.parametrize("link", ["cause", "context"])
def test_the_error_is_found_at_any_depth(error: BaseException, users: bool, depth: int, link: str) -> None:
    error.__cause__ = error.__context__ = None
    outer = error
    for _ in range(depth):
        outer = chained(RuntimeError("wrapped"), **{link: outer})
    assert (user_error(outer) is error) is users


def test_a_cause_does_not_hide_a_context() -> None:
    blamed = BadRequestError("no", status_code=400)
    assert user_error(chained(RuntimeError(), cause=ValueError(), context=blamed)) is blamed


def test_the_cause_is_looked_at_before_the_context() -> None:
    first, second = BadRequestError("1", status_code=400), BadRequestError("2", status_code=400)
    deep = chained(ValueError(), cause=first)
    assert user_error(chained(RuntimeError(), cause=deep, context=second)) is first


def test_a_ring_of_causes_ends() -> None:
    one, other = ValueError(), RuntimeError()
    chained(one, cause=other)
    chained(other, cause=one, context=one)
    assert user_error(one) is None


def test_a_group_is_the_user_s_if_all_of_it_is() -> None:
    blamed = InputError("rank")
    wrapped = chained(RuntimeError(), cause=blamed)
    assert user_error(ExceptionGroup("all", [wrapped, ForeignStatus(400)])) is blamed
    assert user_error(ExceptionGroup("some", [wrapped, ValueError()])) is None
    assert user_error(chained(ExceptionGroup("some", [ValueError()]), cause=blamed)) is blamed
