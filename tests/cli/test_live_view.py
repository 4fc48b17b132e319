"""The live view: bars, the time left, and an actor that draws without being asked."""

from __future__ import annotations

import io
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tinkex_actors.cli.live_view import BARS, Board, eta_seconds, open_live_view, shorten_ids, sparkline
from tinkex_actors.runtime import ActorSystem


class Row(NamedTuple):
    step: int
    steps: int
    loss: float
    tokens: int
    seconds: float


def rows(seconds: list[float], steps: int = 20) -> list[Row]:
    return [Row(i + 1, steps, 4.0 / (i + 1), 500 * (i + 1), at) for i, at in enumerate(seconds)]


def text_of(board: Board, tree: str) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(board.render(tree))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("values", "bars"),
    [([], ""), ([0.0, 0.0], "▁▁"), ([4.0, 2.0, 0.0], "█▅▁"), ([1.0], "█"), ([-1.0, 1.0], "▁█")],
)
def test_sparkline(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars


@given(st.lists(st.floats(0.0, 1e6), max_size=40))
def test_a_sparkline_has_one_bar_a_value_and_keeps_their_order(values: list[float]) -> None:
    bars = sparkline(values)

    assert len(bars) == len(values)
    heights = [BARS.index(bar) for bar in bars]
    assert [height for _, height in sorted(zip(values, heights, strict=True))] == sorted(heights)


@pytest.mark.parametrize(
    ("seconds", "left"),
    [
        ([], None),
        ([9.0], None),  # the first step compiles: no promise from it alone
        ([9.0, 10.0], 18.0),
        ([9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 16.0], 13 * 6 / 5),  # only the last five steps count
        ([float(i) for i in range(20)], 0.0),
    ],
)
def test_the_time_left_follows_the_recent_pace(seconds: list[float], left: float | None) -> None:
    assert eta_seconds(rows(seconds)) == pytest.approx(left)


def test_unique_ids_are_cut_and_other_names_are_not() -> None:
    assert shorten_ids(f"local-{'0a' * 16}:train:0  Sequencer") == "local-0a0a0a…:train:0  Sequencer"
    assert shorten_ids("engine-tiny  deadbeef") == "engine-tiny  deadbeef"


def test_the_board_shows_the_tree_and_the_numbers() -> None:
    board = Board("learning", 20)
    empty = text_of(board, "app\n└─ service")
    board.history += rows([9.0, 10.0])
    full = text_of(board, "app\n└─ service")

    assert "step     0/20" in empty
    assert "└─ service" in full
    assert "step     2/20" in full
    assert "loss     2.000  █▅" in full
    assert "speed    100 tokens/s" in full
    assert "left     18 s" in full


def test_on_a_narrow_terminal_the_numbers_stand_under_the_tree() -> None:
    board = Board("learning", 20)

    def lines(width: int) -> list[str]:
        console = Console(file=io.StringIO(), width=width)
        with console.capture() as captured:
            console.print(board.render("app", width=width))
        return captured.get().splitlines()

    assert "learning" in lines(100)[0]
    assert "learning" not in lines(80)[0]
    assert any("learning" in line for line in lines(80))


async def test_the_view_draws_itself_and_prints_above() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=100, force_terminal=True)
    async with ActorSystem(name="app") as system:
        view = await open_live_view(system, steps=20, title="learning", console=console)
        with view:
            view.say("before [brackets] stay")
            view.progress(rows([9.0])[0])
            await system.whereis("view").call.draw()
            drawn_meanwhile = screen.getvalue()
            view.progress(rows([9.0, 10.0])[1])

    drawn = screen.getvalue()
    assert "step     1/20" in drawn_meanwhile
    assert "step     2/20" in drawn.removeprefix(drawn_meanwhile)
    assert "before [brackets] stay" in drawn
    assert "view" in drawn
