"""What was used and what it cost (protocol 1.7.43, 1.7.44, 2.7).

Estimated cost of tokens: rate times tokens / 1e6; of storage: rate times gigabyte hours / 720.
"""

from __future__ import annotations

from datetime import datetime

from tinkex_actors.types._record import Record, Tagged

__all__ = [
    "BillingEventInfo",
    "BillingUsageEvent",
    "BillingUsageResponse",
    "BillingUsageSession",
    "CheckpointBillingEvent",
    "CurrentCheckpointStorageUsageItem",
    "CurrentCheckpointStorageUsageResponse",
    "GetBillingUsageRequest",
    "GetCurrentCheckpointStorageUsageRequest",
    "SamplingPrefillBillingEvent",
    "SamplingSampleBillingEvent",
    "StorageBillingEvent",
    "TrainingBillingEvent",
]


class GetBillingUsageRequest(Record, frozen=True, kw_only=True):
    """Query of ``billing/usage/events``: UTC hours from ``starting_on`` up to ``ending_before``, at most 14 days."""

    starting_on: datetime
    ending_before: datetime


class TrainingBillingEvent(Tagged, frozen=True, kw_only=True, tag_field="type", tag="training"):
    """Tokens trained on."""

    token_count: int


class SamplingPrefillBillingEvent(Tagged, frozen=True, kw_only=True, tag_field="type", tag="sampling_prefill"):
    """Prompt tokens read, from the prefix cache or not."""

    cached: bool
    token_count: int


class SamplingSampleBillingEvent(Tagged, frozen=True, kw_only=True, tag_field="type", tag="sampling_sample"):
    """Tokens sampled."""

    token_count: int


class CheckpointBillingEvent(Tagged, frozen=True, kw_only=True, tag_field="type", tag="checkpoint"):
    """Checkpoints saved."""

    count: int


class StorageBillingEvent(Tagged, frozen=True, kw_only=True, tag_field="type", tag="storage"):
    """Checkpoints kept."""

    gigabyte_hours: float
    free: bool = False


BillingEventInfo = (
    TrainingBillingEvent
    | SamplingPrefillBillingEvent
    | SamplingSampleBillingEvent
    | CheckpointBillingEvent
    | StorageBillingEvent
)


class BillingUsageEvent(Record, frozen=True, kw_only=True):
    """What was used in one bucket of time, by one user, session and model, where the server says.

    Args:
        bucket_start: begin of the bucket, UTC.
        bucket_end: its end, UTC.
        event_info: what was used.
        base_model, user_id, user_name, session_id, project_id: whose.
        estimated_cost_usd: US dollars.
        effective_rate_usd_per_million_tokens: of events counted in tokens.
        effective_rate_usd_per_gigabyte_month: of storage.
    """

    bucket_start: datetime
    bucket_end: datetime
    event_info: BillingEventInfo
    base_model: str | None = None
    user_id: str | None = None
    user_name: str | None = None
    session_id: str | None = None
    project_id: str | None = None
    estimated_cost_usd: float | None = None
    effective_rate_usd_per_million_tokens: float | None = None
    effective_rate_usd_per_gigabyte_month: float | None = None


class BillingUsageSession(Record, frozen=True, kw_only=True):
    """What is known of a session that was billed."""

    user_metadata: dict[str, str] | None = None


class BillingUsageResponse(Record, frozen=True, kw_only=True):
    """Usage events, the sessions they name by id, and up to when costs are known."""

    data: list[BillingUsageEvent]
    sessions: dict[str, BillingUsageSession] = {}
    cost_data_through: datetime | None = None


class GetCurrentCheckpointStorageUsageRequest(Record, frozen=True, kw_only=True):
    """Query of ``billing/usage/checkpoints/current``; None asks for all projects."""

    project_id: str | None = None


class CurrentCheckpointStorageUsageItem(Record, frozen=True, kw_only=True):
    """What the checkpoints of one user in one project take now."""

    checkpoint_count: int
    size_bytes: int
    size_gigabytes: float
    project_id: str | None = None
    org_user_urn: str | None = None
    user_email: str | None = None
    user_name: str | None = None
    estimated_monthly_cost_usd: float | None = None


class CurrentCheckpointStorageUsageResponse(Record, frozen=True, kw_only=True):
    """What all checkpoints take now, and the rate they are billed at, where there is one."""

    data: list[CurrentCheckpointStorageUsageItem]
    effective_rate_usd_per_gigabyte_month: float | None = None
