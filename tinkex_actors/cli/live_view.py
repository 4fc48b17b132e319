"""The demo's live terminal view: an actor that draws the system it lives in, and the training's numbers beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tinkex_actors.runtime import Actor, handler

if TYPE_CHECKING:
    from types import TracebackType

    from tinkex_actors.runtime import ActorSystem

__all__ = ["Board", "LiveView", "Step", "eta_seconds", "open_live_view", "sparkline"]

REFRESH_SECONDS = 0.2
BARS = "▁▂▃▄▅▆▇█"
RECENT_STEPS = 5
# Below this width, in characters, the numbers stand under the tree.
WIDE = 100


class Step(Protocol):
    """What the demo's script reports after each step; ``seconds`` and ``tokens`` count from the training's start."""

    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def tokens(self) -> int: ...
    @property
    def seconds(self) -> float: ...


def sparkline(values: Sequence[float]) -> str:
    """Return one bar a value, the largest value being the full height and 0 the lowest bar."""
    top = max(values, default=0.0)
    if top <= 0:
        return BARS[0] * len(values)
    return "".join(BARS[round(max(value, 0.0) / top * (len(BARS) - 1))] for value in values)


def eta_seconds(history: Sequence[Step]) -> float | None:
    """Return the seconds still to go, from the pace of the last steps; None before two steps are done.

    The first step compiles, so a mean over all steps would promise too late an end.
    """
    if len(history) < 2:
        return None
    recent = history[-RECENT_STEPS - 1 :]
    pace = (recent[-1].seconds - recent[0].seconds) / (len(recent) - 1)
    return pace * (history[-1].steps - history[-1].step)


class Board:
    """What the view shows: the steps so far, as a rich renderable beside the actor tree."""

    def __init__(self, title: str, steps: int) -> None:
        self.title = title
        self.steps = steps
        self.history: list[Step] = []

    def render(self, tree: str, *, width: int = WIDE) -> RenderableType:
        """Return the picture for one moment: the tree beside the numbers, or above them on a narrow terminal."""
        actors = Panel(Text(tree, no_wrap=True, overflow="ellipsis"), title="actors", title_align="left")
        numbers = Panel(Text(self._numbers()), title=self.title, title_align="left")
        if width < WIDE:
            return Group(actors, numbers)
        grid = Table.grid(expand=True)
        grid.add_column(ratio=3)
        grid.add_column(ratio=2)
        grid.add_row(actors, numbers)
        return grid

    def _numbers(self) -> str:
        if not self.history:
            return f"step     0/{self.steps}\nloss     -\nspeed    -\nleft     -"
        last, left = self.history[-1], eta_seconds(self.history)
        return "\n".join(
            (
                f"step     {last.step}/{last.steps}",
                f"loss     {last.loss:.3f}  {sparkline([row.loss for row in self.history])}",
                f"speed    {last.tokens / last.seconds:.0f} tokens/s",
                f"left     {'-' if left is None else f'{left:.0f} s'}",
            )
        )


class LiveView(Actor):
    """Redraws the board a few times a second. A crash here costs a frame, not the training: it is restarted."""

    def __init__(self, board: Board, live: Live) -> None:
        self._board = board
        self._live = live

    async def init(self) -> None:
        """Draw at once, then at the refresh rate."""
        self.draw()
        self.every(REFRESH_SECONDS, self.ref.cast.draw)

    @handler
    def draw(self) -> None:
        """Draw one frame."""
        draw_frame(self._board, self._live, self.system)


def shorten_ids(tree: str) -> str:
    """Cut the 32 hexadecimal digits of unique ids down to six, so that the states behind them stay in sight."""
    return re.sub(r"[0-9a-f]{32}", lambda found: f"{found[0][:6]}…", tree)


def draw_frame(board: Board, live: Live, system: ActorSystem) -> None:
    """Draw the board and the system's tree as they are now."""
    live.update(board.render(shorten_ids(str(system.tree())), width=live.console.width), refresh=True)


class OpenView:
    """The view from outside: enter it around the work, and tell it what happened."""

    def __init__(self, board: Board, live: Live, system: ActorSystem) -> None:
        self._board = board
        self._live = live
        self._system = system

    def progress(self, step: Step) -> None:
        """Show one more step."""
        self._board.history.append(step)

    def say(self, text: str) -> None:
        """Print a text above the moving part."""
        self._live.console.print(text, markup=False, highlight=False)

    def __enter__(self) -> OpenView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The last step may be younger than the last frame.
        draw_frame(self._board, self._live, self._system)
        self._live.stop()


async def open_live_view(system: ActorSystem, *, steps: int, title: str, console: Console | None = None) -> OpenView:
    """Start the drawing actor in ``system``; what it draws shows between entering and leaving the result.

    Args:
        system: the system to draw, and to live in.
        steps: how many steps there will be.
        title: the heading of the numbers.
        console: where to draw; default the terminal.
    """
    board = Board(title, steps)
    live = Live(console=console, auto_refresh=False, transient=False)
    await system.spawn(LiveView, board, live, name="view", restart="transient")
    return OpenView(board, live, system)
