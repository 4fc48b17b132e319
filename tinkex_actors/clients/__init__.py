"""What users hold: the service, and the clients made from it."""

from tinkex_actors.actors.futures import ApiFuture
from tinkex_actors.clients.custom_loss_handle import LossHandle
from tinkex_actors.clients.recovery import WatchedRun
from tinkex_actors.clients.regularizers import compute_regularized
from tinkex_actors.clients.rest import AdminClient, ArchiveLimits, Pages, RestClient
from tinkex_actors.clients.sampling import SamplingClient
from tinkex_actors.clients.service import ServiceClient
from tinkex_actors.clients.telemetry import Telemetry
from tinkex_actors.clients.training import TrainingClient

__all__ = [
    "AdminClient",
    "ApiFuture",
    "ArchiveLimits",
    "LossHandle",
    "Pages",
    "RestClient",
    "SamplingClient",
    "ServiceClient",
    "Telemetry",
    "TrainingClient",
    "WatchedRun",
    "compute_regularized",
]
