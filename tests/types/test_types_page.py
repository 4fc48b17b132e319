"""The page of types is what the code says, and the code has every type and field of the official client."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tinkex_actors import types

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "types_page.py"
SINCE = tomllib.loads((ROOT / "docs" / "types_since.toml").read_text(encoding="utf-8"))
ELSEWHERE = {name for names in SINCE["elsewhere"] for name in names.split(", ")}

# Where our field has another name, for a reason that stands in its type's docstring.
RENAMED = {("OptimStepRequest", "optim_params")}


def script() -> Any:
    spec = importlib.util.spec_from_file_location("types_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def official() -> dict[str, set[str]]:
    """Names and public fields of the official client's types, read from its source: importing it takes seconds."""
    spec = importlib.util.find_spec("tinker")
    assert spec is not None
    assert spec.origin is not None
    found: dict[str, set[str]] = {}
    for path in (Path(spec.origin).parent / "types").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                fields = (line.target for line in node.body if isinstance(line, ast.AnnAssign))
                found[node.name] = {
                    field.id for field in fields if isinstance(field, ast.Name) and not field.id.startswith("_")
                }
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.setdefault(node.target.id, set())
    return {name: fields for name, fields in found.items() if name[0].isupper() and not name.isupper()}


def test_the_page_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("AdamParams Checkpoint", "Checkpoint"),
        ("AdamParams Checkpoint", "AdamParams AdamParamz Checkpoint"),
        ('"Checkpoint.expires_at"', '"Checkpoint.expired_at"'),
    ],
)
def test_a_type_or_field_without_a_version_or_the_reverse_is_caught(tmp_path: Path, was: str, becomes: str) -> None:
    module = script()
    changed = tmp_path / "since.toml"
    text = module.SINCE.read_text(encoding="utf-8")
    assert was in text
    changed.write_text(text.replace(was, becomes, 1), encoding="utf-8")
    module.SINCE = changed

    with pytest.raises(SystemExit, match=r"AdamParams|AdamParamz|expired_at"):
        module.page()


def test_the_page_names_every_type_and_every_field() -> None:
    text = (ROOT / "docs" / "pages" / "reference" / "types.md").read_text(encoding="utf-8")

    for name in (name for name in types.__all__ if name[0].isupper()):
        entry = text.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        value = getattr(types, name)
        fields = value.__struct_fields__ if hasattr(value, "__struct_fields__") and value.__name__ == name else ()
        assert entry.startswith("\nSince "), name
        assert [field for field in fields if f"| `{field}` |" not in entry] == [], name


@pytest.mark.peer
def test_every_official_type_is_here_or_said_to_be_elsewhere() -> None:
    names = official().keys()

    assert len(names) > 120
    assert sorted(names - set(types.__all__) - ELSEWHERE) == []


@pytest.mark.peer
def test_every_official_field_is_here() -> None:
    lacking = set()
    for name, fields in official().items():
        ours = getattr(types, name, None)
        if isinstance(ours, type) and issubclass(ours, msgspec.Struct):
            have = {*ours.__struct_fields__, ours.__struct_config__.tag_field}
            lacking |= {(name, field) for field in fields - have}

    assert lacking == RENAMED
