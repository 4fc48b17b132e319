"""What the actor core has to hold, and whether it does: ratios within a round, medians over rounds."""

from __future__ import annotations

import statistics

import msgspec

from tests.bench.report import Row

__all__ = ["FLOORS", "OTHERS", "Floor", "Round", "row_of"]

Round = dict[str, dict[str, float]]
"""Value by measure, by subject: what one round of one loop gave."""

OTHERS = "best other library"


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio (or, with a ``unit``, a value) that must be reached.

    Attributes:
        subject: ours.
        measure: which of its measures.
        against: the baseline's subject, or ``OTHERS``: the best of the libraries installed; empty for a value.
        target: at least this ratio, or at most this value.
        on_uvloop: the same there; None is ``target``.
        unit: of a value.
    """

    subject: str
    measure: str
    target: float
    against: str = ""
    on_uvloop: float | None = None
    unit: str = ""

    def holds(self, value: float, loop: str) -> bool:
        """Return whether a ratio or value is good enough."""
        return value <= self.target_on(loop) if self.unit else value >= self.target_on(loop)

    def target_on(self, loop: str) -> float:
        """Return the target on a loop."""
        return self.on_uvloop if loop == "uvloop" and self.on_uvloop is not None else self.target


FLOORS = (
    Floor(subject="def", measure="tell", against="call_soon", target=0.70),
    Floor(subject="async def", measure="tell", against="call_soon", target=0.52),
    Floor(subject="def", measure="call", against="call_soon", target=8.0),
    Floor(subject="async def", measure="call", against="call_soon", target=2.0),
    Floor(subject="def", measure="call, 100 callers", against="call_soon", target=2.0),
    Floor(subject="def, queued", measure="call", against="queue", target=0.85),
    Floor(subject="async def, queued", measure="call", against="queue", target=0.60),
    Floor(subject="def", measure="ring of 1000", against="call_soon", target=5.0),
    Floor(subject="async def", measure="ring of 1000", against="call_soon", target=1.8),
    Floor(subject="async def", measure="suspending handlers", against="queue", target=0.80, on_uvloop=0.90),
    Floor(subject="def", measure="spawn and stop", against="queue", target=5.0),
    Floor(subject="memory", measure="idle actor, never used", target=800.0, unit="bytes"),
    Floor(subject="memory", measure="idle actor, after use", target=1000.0, unit="bytes"),
    Floor(subject="restart", measure="restart to next answer", target=15.0, unit="us"),
    Floor(subject="turns", measure="loop turn, p99", target=6.0, unit="ms"),
    Floor(subject="async def", measure="tell", against=OTHERS, target=1.0),
    Floor(subject="async def", measure="tell, all queued at once", against=OTHERS, target=1.0),
    Floor(subject="async def", measure="call", against=OTHERS, target=1.0),
    Floor(subject="async def", measure="call, 100 callers", against=OTHERS, target=1.0),
    Floor(subject="async def", measure="spawn and stop", against=OTHERS, target=1.0),
    Floor(subject="async def, queued", measure="call", against=OTHERS, target=0.85),
)


def row_of(floor: Floor, rounds: list[Round], loop: str, others: tuple[str, ...]) -> Row:
    """Return what a floor's measure came to.

    Args:
        floor: which.
        rounds: one or more, all of one loop; a short bench measures other libraries in the first only.
        loop: its name.
        others: the other libraries that were measured.
    """
    name = f"{floor.measure}, {floor.subject}" if floor.against else floor.measure
    ours = [round_[floor.subject][floor.measure] for round_ in rounds]
    row = Row(
        measure=name,
        ours=statistics.median(ours),
        unit=floor.unit or "k/s",
        against=floor.against,
        loop=loop,
        target=floor.target_on(loop),
    )
    if not floor.against:
        row.held = floor.holds(row.ours, loop)
        return row
    rivals = [_rivals(floor, round_, others) for round_ in rounds]
    pairs = [(value, max(values.values())) for value, values in zip(ours, rivals, strict=True) if values]
    if not pairs:
        return row
    if floor.against == OTHERS:
        row.against = max(rivals[0], key=rivals[0].__getitem__)
    row.baseline = statistics.median(base for _, base in pairs)
    row.ratio = statistics.median(value / base for value, base in pairs)
    row.held = floor.holds(row.ratio, loop)
    return row


def _rivals(floor: Floor, round_: Round, others: tuple[str, ...]) -> dict[str, float]:
    """Return the baseline's value, or each library's; theirs of a backlog is their ``tell``: they queue all at once."""
    if floor.against != OTHERS:
        return {floor.against: round_[floor.against][floor.measure]}
    measure = "tell" if floor.measure.startswith("tell") else floor.measure
    return {name: round_[name][measure] for name in others if measure in round_.get(name, {})}
