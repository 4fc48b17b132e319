"""Durable runs: training that survives its processes, and goes on exactly where it stopped."""

from tinkex_actors.runs.interruptions import is_interruption
from tinkex_actors.runs.journal.record import HistoryRow
from tinkex_actors.runs.run import DurableRun
from tinkex_actors.runs.step import Step

__all__ = ["DurableRun", "HistoryRow", "Step", "is_interruption"]
