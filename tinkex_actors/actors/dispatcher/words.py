"""What a sample waits for, and why a session is stuck, in words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tinkex_actors.errors import APITimeoutError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tinkex_actors.actors.dispatcher.sample import Sample, SamplerSession
    from tinkex_actors.actors.promise import Promise
    from tinkex_actors.machines.admission import AdmissionStatistics

__all__ = ["described", "stuck", "why_paused"]

# Protocol 4.11.
_REASONS = {
    "paused_rate_limit": "concurrent sampler weights limit hit",
    "paused_capacity": "Tinker backend is running short on capacity, please wait",
}


def why_paused(queue_state: str, reason: str | None) -> str:
    """Return the server's words, or the official client's where it has none."""
    return reason or _REASONS.get(queue_state, "unknown")


def described(stage: str | None, view: AdmissionStatistics, attempt: int, now: float) -> str:
    """Return what a sample waits for that is not being polled."""
    if stage == "dispatching":
        return "being posted"
    if stage is None:
        return f"waiting to be sent again (attempt {attempt + 1})"
    counts = f"{view.waiting} waiting, {view.dispatching} being posted, {view.in_flight} in flight"
    if view.window_since is not None and view.window_until is not None:
        since = f"since {now - view.window_since:.0f} s: {view.window_cause}"
        if view.phase == "probing":
            return f"in back-off {since}; one request tries whether it is over ({counts})"
        return f"in back-off for another {max(view.window_until - now, 0.0):.1f} s, {since} ({counts})"
    pace = "" if view.rate is None else f", at the {view.rate:.1f} posts/s that the server takes"
    return f"waiting for room: {counts}{pace}"


def stuck(
    session: SamplerSession,
    view: AdmissionStatistics,
    promises: Mapping[str, Promise],
    samples: Mapping[int, Sample],
    now: float,
) -> APITimeoutError:
    """Return the error of a session in which nothing has ended for too long; it names what most of it waits for."""
    causes: Counter[str] = Counter()
    for sample in samples.values():
        promise = None if sample.request_id is None else promises.get(sample.request_id)
        if promise is not None:
            causes[promise.cause(now)] += 1
        elif view.window_since is not None:
            causes[f"back-off since {now - view.window_since:.0f} s: {view.window_cause}"] += 1
        else:
            causes["not taken by the server yet"] += 1
    words = "; ".join(f"{count} of them: {cause}" for cause, count in causes.most_common(3))
    return APITimeoutError(
        f"No sample of sampling session {session.sampling_session_id} has ended for {now - session.progress_at:.0f} s "
        f"(RetryConfig.progress_timeout), so the {len(samples)} that are pending are given up. {words}. Wait and "
        "sample again, allow more time, or look at the server."
    )
