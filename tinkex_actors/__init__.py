"""Supervised asyncio actors, and on them a complete client and a local engine for the Tinker fine-tuning API.

The layers, each importing only what stands below it::

    cli                              the command line
    clients                          ServiceClient, TrainingClient, SamplingClient, RestClient
    engine | testing                 the local engine (JAX); the public test kit
    actors                           session, sequencer, poller, dispatcher, telemetry: shells around machines
    transport                        the seam to a server: HTTP, or the engine in this process
    wire | machines | tokenizers     codec; pure state machines; text <-> tokens
    config | types | runtime         settings; requests and responses; generic actors
    errors                           one tree
"""

from __future__ import annotations

from tinkex_actors.clients import ApiFuture, RestClient, SamplingClient, ServiceClient, TrainingClient
from tinkex_actors.config import Config, RetryConfig
from tinkex_actors.errors import *  # noqa: F403
from tinkex_actors.errors import __all__ as _errors
from tinkex_actors.runtime import run
from tinkex_actors.types import *  # noqa: F403
from tinkex_actors.types import __all__ as _types

__version__ = "0.1.0"

__all__ = sorted(
    [
        *(name for name in _errors if name != "status_error"),
        *(name for name in _types if name != "check_datum"),
        "ApiFuture",
        "Config",
        "RestClient",
        "RetryConfig",
        "SamplingClient",
        "ServiceClient",
        "TrainingClient",
        "__version__",
        "run",
    ]
)
