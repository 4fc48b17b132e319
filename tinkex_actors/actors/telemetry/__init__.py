"""Telemetry: a desk that queues events, an actor that sends them, a spool for when the server is away."""

from tinkex_actors.actors.telemetry.actor import Telemetry
from tinkex_actors.actors.telemetry.blame import report_failure
from tinkex_actors.actors.telemetry.desk import TelemetryDesk, TelemetryStatistics
from tinkex_actors.actors.telemetry.spool import Spool, spool_name

__all__ = ["Spool", "Telemetry", "TelemetryDesk", "TelemetryStatistics", "report_failure", "spool_name"]
