"""Draw the back-off window from a simulated storm into docs: ``python -m tests.bench.backoff_picture``.

One server with a hidden bucket of tokens (`tests.bench.storms`), before each of the two policies: what it took and
refused in each quarter of a second, and when the window was open. Nothing in the picture is drawn by hand.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tests.bench.storms import World
from tinkex_actors.machines.admission.backoff import ADAPTIVE, PARITY, BackoffPolicy

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "pages" / "how-to" / "backoff-window.svg"
SEED, SECONDS, STEP = 12, 40.0, 0.25
LEFT, WIDTH, HEIGHT, GAP = 46, 680, 110, 44
TAKEN, REFUSED, OPEN, PROBING = "#2e7d6b", "#c0392b", "#e8b04a", "#c98ad6"


class Watched(World):
    """A storm that remembers in which phase the window was since when."""

    def __init__(self, policy: BackoffPolicy) -> None:
        super().__init__(SEED, policy)
        self.phases: list[tuple[float, str]] = [(0.0, "steady")]

    def perform(self, effects: list[Any]) -> None:
        """Go on, and look at the window."""
        super().perform(effects)
        phase = self.admission.backoff.phase
        if phase != self.phases[-1][1]:
            self.phases.append((self.now, phase))


def picture() -> str:
    """Return the picture as SVG."""
    rows = [
        _row(number, title, policy)
        for number, (title, policy) in enumerate((("adaptive (default)", ADAPTIVE), ("parity", PARITY)))
    ]
    height = len(rows) * (HEIGHT + GAP) + 34
    words = ((TAKEN, "taken"), (REFUSED, "refused (429)"), (OPEN, "window open"), (PROBING, "one request probes"))
    legend = "".join(
        f'<rect x="{LEFT + 150 * place}" y="{height - 22}" width="11" height="11" fill="{colour}"/>'
        f'<text x="{LEFT + 150 * place + 16}" y="{height - 12}">{text}</text>'
        for place, (colour, text) in enumerate(words)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 14} {height}" '
        'font-family="sans-serif" font-size="12" fill="#777">\n'
        "<title>Posts of samples before a server that refuses, under both policies</title>\n"
        + "\n".join(rows)
        + f"\n{legend}\n</svg>\n"
    )


def _row(number: int, title: str, policy: BackoffPolicy) -> str:
    world = Watched(policy)
    world.run()
    top = 24 + number * (HEIGHT + GAP)
    floor = top + HEIGHT
    taken = Counter(int(instant / STEP) for instant, _ in world.taken if instant < SECONDS)
    refused = Counter(int(instant / STEP) for instant in world.refused if instant < SECONDS)
    most = 16  # bars that are higher are cut off: what is posted at once in the beginning
    parts = [f'<text x="{LEFT}" y="{top - 8}">{title}: posts in each quarter of a second</text>']
    parts += [_band(begin, end, phase, top) for begin, end, phase in _bands(world)]
    for place in sorted(taken | refused):
        x, wide = LEFT + place * STEP * WIDTH / SECONDS, STEP * WIDTH / SECONDS - 0.6
        tall = min(taken[place], most) * HEIGHT / most
        above = min(refused[place], most - min(taken[place], most)) * HEIGHT / most
        parts.append(_bar(x, floor - tall, wide, tall, TAKEN))
        parts.append(_bar(x, floor - tall - above, wide, above, REFUSED))
    steady = floor - world.server.rate * STEP * HEIGHT / most
    parts.append(
        f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{steady:.1f}" y2="{steady:.1f}" stroke="#777" '
        f'stroke-dasharray="4 4"/><text x="2" y="{steady + 4:.1f}">refill</text>'
    )
    parts.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{floor}" y2="{floor}" stroke="#777"/>')
    for second in range(0, int(SECONDS) + 1, 10):
        parts.append(f'<text x="{LEFT + second * WIDTH / SECONDS - 6:.0f}" y="{floor + 14}">{second} s</text>')
    return "\n".join(part for part in parts if part)


def _bands(world: Watched) -> list[tuple[float, float, str]]:
    ends = [*(at for at, _ in world.phases[1:]), SECONDS]
    return [
        (begin, min(end, SECONDS), phase)
        for (begin, phase), end in zip(world.phases, ends, strict=True)
        if begin < SECONDS and phase in ("backing_off", "probing")
    ]


def _band(begin: float, end: float, phase: str, top: int) -> str:
    colour = OPEN if phase == "backing_off" else PROBING
    wide = (end - begin) * WIDTH / SECONDS
    return (
        f'<rect x="{LEFT + begin * WIDTH / SECONDS:.1f}" y="{top}" width="{wide:.1f}" height="{HEIGHT}" '
        f'fill="{colour}" opacity="0.35"/>'
    )


def _bar(x: float, y: float, wide: float, tall: float, colour: str) -> str:
    if not tall:
        return ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.1f}" fill="{colour}"/>'


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
