"""The public surface is a list that a test knows: sorted, complete, importable, documented names at the root."""

from __future__ import annotations

import importlib
import re
import types
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "tinkex_actors"

PUBLIC_PACKAGES = [
    "tinkex_actors",
    "tinkex_actors.config",
    "tinkex_actors.errors",
    "tinkex_actors.losses",
    "tinkex_actors.events",
    "tinkex_actors.runs",
    "tinkex_actors.runtime",
    "tinkex_actors.testing",
    "tinkex_actors.transport",
    "tinkex_actors.types",
]

ROOT_NAMES = {
    "AdamParams",
    "ApiFuture",
    "Config",
    "Datum",
    "LoraConfig",
    "ModelInput",
    "RestClient",
    "RetryConfig",
    "SamplingClient",
    "SamplingParams",
    "ServiceClient",
    "TensorData",
    "TrainingClient",
    "run",
}

RUNTIME_NAMES = {
    "Actor",
    "ActorRef",
    "ActorSystem",
    "ChildSpec",
    "DynamicSupervisor",
    "Mailbox",
    "PartitionSupervisor",
    "Reject",
    "Supervisor",
    "TaskSupervisor",
    "handler",
    "run",
}


def order(name: str) -> tuple[int, list[str | int]]:
    """Constants, then classes, then the rest, each with numbers in numeric order: the order ruff's RUF022 keeps."""
    rank = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return rank, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@pytest.mark.parametrize("name", PUBLIC_PACKAGES)
def test_exports_are_sorted_unique_and_importable(name: str) -> None:
    module = importlib.import_module(name)

    exported = list(module.__all__)

    assert exported in (sorted(exported), sorted(exported, key=order))
    assert len(set(exported)) == len(exported)
    assert [missing for missing in exported if getattr(module, missing, None) is None] == []


@pytest.mark.parametrize("name", PUBLIC_PACKAGES)
def test_everything_public_is_exported(name: str) -> None:
    """A name without an underscore that a module holds, and did not import from elsewhere, is in its ``__all__``."""
    module = importlib.import_module(name)

    unlisted = [
        attribute
        for attribute, value in vars(module).items()
        if not attribute.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", "").startswith(name)
        and attribute not in module.__all__
    ]

    assert unlisted == []


@pytest.mark.parametrize("name", [package for package in PUBLIC_PACKAGES if package != "tinkex_actors.config"])
def test_every_exported_class_and_function_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)

    bare = [
        exported
        for exported in module.__all__
        if isinstance(value := getattr(module, exported), type | types.FunctionType) and not value.__doc__
    ]

    assert bare == []


def test_the_root_has_the_documented_names_every_type_and_every_error() -> None:
    import tinkex_actors
    from tinkex_actors import errors
    from tinkex_actors import types as vocabulary

    listed = (*vocabulary.__all__, *errors.__all__)
    wanted = ROOT_NAMES | {name for name in listed if name[0].isupper()}

    assert wanted - set(tinkex_actors.__all__) == set()


def test_the_runtime_has_the_documented_names() -> None:
    from tinkex_actors import runtime

    assert RUNTIME_NAMES - set(runtime.__all__) == set()


def test_every_event_of_the_clients_can_be_subscribed_to_by_its_public_name() -> None:
    events = importlib.import_module("tinkex_actors.events")
    tagged = re.compile(r"^class (\w+)\(msgspec\.Struct, frozen=True, tag=\"", re.MULTILINE)
    found = {name for path in SOURCES.rglob("actors/**/*.py") for name in tagged.findall(path.read_text("utf-8"))}

    assert found == set(events.__all__)
