"""What the documentation shows is what runs: blocks are executed, includes exist, and lists name everything there is.

A block fenced as ``python`` is a program (``await`` at top level is allowed); one fenced as ``py`` is a fragment that
must parse. A block that only includes a file of ``examples/`` is covered by that file's own test.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "pages").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INCLUDE = re.compile(r'^--8<-- "(.+)"$')
# Each file of examples/ and the test that runs it.
EXAMPLES = {
    "examples/00_ten_lines.py": "tests/contracts/test_docs_run.py",
    "examples/01_first_fine_tune.py": "tests/cli/test_demo.py",
    "examples/02_durable_run.py": "tests/runs/test_example.py",
    "examples/03_regularizers.py": "tests/losses/test_regularizers_example.py",
    "examples/04_crawler.py": "tests/runtime/test_crawler_example.py",
    "examples/05_regularized_training.py": "tests/losses/test_regularizers_example.py",
}


class Block(NamedTuple):
    """One fenced block: where it stands, its language and its text."""

    where: str
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(f"{page.relative_to(ROOT)}:{line}", match[1], match[2]))
    return [block for block in found if block.language in languages]


def is_example(block: Block) -> bool:
    texts = {(ROOT / name).read_text(encoding="utf-8") for name in EXAMPLES}
    return bool(INCLUDE.match(block.text.strip())) or block.text in texts


PROGRAMS = [block for block in blocks("python") if not is_example(block)]
FRAGMENTS = blocks("py")


def execute(block: Block) -> None:
    code = compile(block.text, block.where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    run = types.FunctionType(code, {"__name__": "__main__"})
    result = run()
    if inspect.iscoroutine(result):
        asyncio.run(result)


def files_included() -> list[str]:
    lines = (line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines())
    return [match[1] for line in lines if (match := INCLUDE.match(line.strip()))]


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.where)
def test_a_program_in_the_documentation_runs(block: Block) -> None:
    execute(block)


@pytest.mark.parametrize("block", FRAGMENTS, ids=lambda block: block.where)
def test_a_fragment_in_the_documentation_parses(block: Block) -> None:
    compile(block.text, block.where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


def test_a_wrong_program_would_be_noticed() -> None:
    with pytest.raises(AssertionError):
        execute(Block("here", "python", "import asyncio\nawait asyncio.sleep(0)\nassert 1 == 2\n"))


def test_included_files_exist_and_every_example_has_a_test() -> None:
    assert [name for name in files_included() if not (ROOT / name).is_file()] == []
    assert {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)
    for name, test in EXAMPLES.items():
        assert Path(name).name in (ROOT / test).read_text(encoding="utf-8")


def test_links_in_the_readme_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))

    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_readme_shows_the_ten_lines_as_they_are() -> None:
    shown = [block.text for block in blocks("python") if block.where.startswith("README.md")]

    assert (ROOT / "examples" / "00_ten_lines.py").read_text(encoding="utf-8") in shown


@pytest.mark.slow
def test_the_ten_lines_train_and_sample(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "00_ten_lines.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    losses = [float(line.split()[0]) for line in done.stdout.splitlines()[:10]]
    assert losses[-1] < losses[0] * 0.8


def test_the_error_page_names_every_class() -> None:
    from tinkex_actors import errors

    text = (ROOT / "docs" / "pages" / "reference" / "errors.md").read_text(encoding="utf-8")
    leaves = {cls.__name__ for cls in errors.APIStatusError.__subclasses__()}

    missing = [name for name in errors.__all__ if name[0].isupper() and name not in leaves and name not in text]

    assert missing == []


def test_the_configuration_page_names_every_variable() -> None:
    sources = (ROOT / "tinkex_actors" / "config").glob("*.py")
    read = {name for path in sources for name in re.findall(r"\bTINKE[RX]_[A-Z_]+\b", path.read_text(encoding="utf-8"))}
    text = (ROOT / "docs" / "pages" / "reference" / "config.md").read_text(encoding="utf-8")

    assert read
    assert [name for name in sorted(read) if f"`{name}`" not in text] == []


def test_the_command_page_names_every_command_and_option() -> None:
    from typer.main import get_command

    from tinkex_actors.cli.main import app

    text = (ROOT / "docs" / "pages" / "reference" / "cli.md").read_text(encoding="utf-8")
    commands = dict(get_command(app).commands)  # type: ignore[attr-defined]
    for name, sub in commands.pop("models").commands.items():
        commands[f"models {name}"] = sub

    wanted = [f"`{name}" for name in commands]
    wanted += [
        option for command in commands.values() for item in command.params for option in item.opts if "--" in option
    ]

    assert [word for word in wanted if word not in text and word != "--help"] == []
