"""Servers of every kind that the client has to get on with: the local engine, with its ways of being different."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tinkex_actors import Config
from tinkex_actors.engine.service.call import EngineOptions
from tinkex_actors.engine.transport import LocalTransport
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.transport.server import serve
from tinkex_actors.wire.dialect import JSON
from tinkex_actors.wire.quirks import QUIRKS, Quirks

# Together, a server that refuses both encodings, or answers two statuses, is none; and one that wants tokens in place
# of keys says so in its client config.
ALONE = tuple(name for name in QUIRKS if name not in ("refuses_json", "submits_answer_202", "wants_jwt"))
ROUTES_TO_DO_WITHOUT = (
    "client_config",
    "dynamic_config",
    "forward",
    "get_sampler",
    "session_heartbeat",
    "telemetry",
)
FEATURES_TO_DO_WITHOUT = ("metadata_only", "protobuf", "sample_sequence_ids")

SERVERS: Final[dict[str, EngineOptions]] = {
    "hosted": EngineOptions(),
    "json": EngineOptions(dialect=JSON),
    "strict": EngineOptions(strict=True),
    "strict json": EngineOptions(dialect=JSON, strict=True),
    **{f"quirk {name}": EngineOptions(quirks=Quirks.named([name])) for name in QUIRKS},
    **{
        f"json, quirk {name}": EngineOptions(dialect=JSON, quirks=Quirks.named([name]))
        for name in QUIRKS
        if name not in ("refuses_json", "wants_jwt")
    },
    **{
        f"without {name}": EngineOptions(quirks=Quirks.named(without=[name]))
        for name in (*ROUTES_TO_DO_WITHOUT, *FEATURES_TO_DO_WITHOUT)
    },
    "everything at once": EngineOptions(
        strict=True, quirks=Quirks.named(ALONE, without=[*ROUTES_TO_DO_WITHOUT, *FEATURES_TO_DO_WITHOUT])
    ),
    "everything at once but the config's absence": EngineOptions(
        strict=True, quirks=Quirks.named([*ALONE, "wants_jwt"], without=["dynamic_config", *FEATURES_TO_DO_WITHOUT])
    ),
    "everything at once, json": EngineOptions(
        dialect=JSON, strict=True, quirks=Quirks.named(ALONE, without=ROUTES_TO_DO_WITHOUT)
    ),
    "protobuf or nothing": EngineOptions(
        quirks=Quirks.named(["refuses_json", "submits_answer_202", "old_fields"], without=["client_config"])
    ),
}


@asynccontextmanager
async def over_http(tmp_path: Path, options: EngineOptions) -> AsyncIterator[str]:
    config = Config(base_url="local://tiny", engine_store=tmp_path)
    async with ActorSystem(name="server") as system:
        transport = LocalTransport("tiny", system=system, config=config, options=options)
        server = await serve(transport)
        try:
            yield server.url
        finally:
            await server.close()
            await transport.close()
