"""Which samples may be posted now: budgets, fair shares, and the server's back-off window."""

from tinkex_actors.machines.admission.budgets import (
    Admission,
    AdmissionLimits,
    AdmissionStatistics,
    Effect,
    Post,
    WakeAt,
)

__all__ = ["Admission", "AdmissionLimits", "AdmissionStatistics", "Effect", "Post", "WakeAt"]
