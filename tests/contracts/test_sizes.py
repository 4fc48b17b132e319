"""Nothing grows past what a reader holds in the head: files, functions, modules and folders have limits."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tinkex_actors"

MAX_FILE_LINES = 600
MAX_BODY_LINES = 60
P90_BODY_LINES = 25
MAX_PUBLIC_NAMES = 12
MAX_FOLDER_MODULES = 14

GENERATED = PACKAGE / "wire" / "_proto"
# The error tree is one drawing, and `types` are vocabularies by concept: splitting them by count would hide, not help.
NAMES_EXEMPT = (PACKAGE / "errors.py", PACKAGE / "events.py", PACKAGE / "types")


def sources(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if GENERATED not in path.parents)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body without its docstring; a nested function counts as part of its parent."""
    body = function.body
    if (
        isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    ):
        body = body[1:]
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", body_lines(node)


def public_names(path: Path) -> int:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return len(ast.literal_eval(node.value))
    return 0


def test_no_file_is_longer_than_its_limit() -> None:
    lengths = {
        path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources("tinkex_actors", "tests", "examples")
    }

    assert {path: lines for path, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_its_limit() -> None:
    bodies = dict(entry for path in sources("tinkex_actors", "examples") for entry in functions(path))

    assert {where: lines for where, lines in bodies.items() if lines > MAX_BODY_LINES} == {}


def test_nine_functions_of_ten_are_short() -> None:
    bodies = sorted(lines for path in sources("tinkex_actors") for _, lines in functions(path))

    assert bodies[len(bodies) * 9 // 10] <= P90_BODY_LINES


def test_no_module_exports_more_than_a_dozen_names() -> None:
    checked = [
        path
        for path in sources("tinkex_actors")
        if path.name != "__init__.py" and not any(path == spared or spared in path.parents for spared in NAMES_EXEMPT)
    ]

    counts = {path.relative_to(ROOT): public_names(path) for path in checked}

    assert {path: count for path, count in counts.items() if count > MAX_PUBLIC_NAMES} == {}


def test_no_folder_holds_more_than_fourteen_modules() -> None:
    folders: dict[Path, int] = {}
    for path in sources("tinkex_actors"):
        if path.name != "__init__.py":
            folders[path.parent] = folders.get(path.parent, 0) + 1

    assert {folder: count for folder, count in folders.items() if count > MAX_FOLDER_MODULES} == {}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def f():\n    return 1\n", 1),
        ('def f():\n    """Doc\n    of two lines."""\n    x = 1\n\n    return x\n', 3),
        ('def f():\n    """Only a docstring."""\n', 0),
    ],
)
def test_the_measure_leaves_out_signature_and_docstring(source: str, lines: int) -> None:
    function = ast.parse(source).body[0]

    assert isinstance(function, ast.FunctionDef)
    assert body_lines(function) == lines
