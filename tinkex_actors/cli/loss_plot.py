"""A run's loss, drawn: in a terminal, or into a PNG file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tinkex_actors.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["draw", "save_png"]

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def draw(values: Sequence[float], *, width: int = 64, height: int = 8) -> list[str]:
    """Return a bar chart as lines of text, its scale on the left.

    More values than columns are averaged, column by column. Values that are not finite leave a gap.

    Args:
        values: what to draw, in order.
        width: columns for the bars, 1 or more.
        height: lines, 1 or more.
    """
    columns = _averaged(values, width)
    shown = [value for value in columns if value is not None]
    if not shown:
        return ["nothing to draw"]
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    # The lowest bar keeps one eighth, so that it is not taken for a gap.
    levels = [None if v is None else 1 + round((v - low) / span * (8 * height - 1)) for v in columns]
    lines = []
    for row in range(height - 1, -1, -1):
        scale = high if row == height - 1 else low if row == 0 else None
        bars = "".join(" " if level is None else _EIGHTHS[max(0, min(8, level - 8 * row))] for level in levels)
        lines.append(f"{'' if scale is None else f'{scale:.4g}':>10} │{bars}")
    return lines


def save_png(steps: Sequence[int], values: Sequence[float], path: Path, *, title: str, label: str) -> None:
    """Draw a line into a PNG file.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("A plot needs matplotlib. Run: pip install 'tinkex-actors[local]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(steps, values, marker="." if len(values) < 100 else None)
    axes.set(xlabel="step", ylabel=label, title=title)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _averaged(values: Sequence[float], width: int) -> list[float | None]:
    count = min(width, len(values))
    columns: list[float | None] = []
    for column in range(count):
        part = values[column * len(values) // count : (column + 1) * len(values) // count]
        finite = [value for value in part if math.isfinite(value)]
        columns.append(sum(finite) / len(finite) if finite else None)
    return columns
