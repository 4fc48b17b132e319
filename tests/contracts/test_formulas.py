"""The hook that draws formulas: LaTeX becomes MathML, code stays as it is, and no page has a formula left undrawn."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("latex2mathml")

DOCS = Path(__file__).resolve().parents[2] / "docs"


def draw(markdown: str) -> str:
    spec = importlib.util.spec_from_file_location("formulas", DOCS / "formulas.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.on_page_markdown(markdown))


def test_formulas_in_a_line_and_in_a_block_become_mathml() -> None:
    drawn = draw("The ratio $r = e^{x}$ is\n\n```math\n\\sum_t r_t\n```\n")

    assert drawn.count("<math") == 2
    assert 'display="block"' in drawn
    assert "$" not in drawn
    assert "<msup>" in drawn


@pytest.mark.parametrize(
    "text", ["`$HOME` and `$PATH`", "```sh\necho $HOME $PATH\n```", "it costs $5", "~~~\n$a$\n~~~"], ids=repr
)
def test_what_is_code_or_money_stays(text: str) -> None:
    assert draw(text) == text


def test_every_formula_of_the_pages_is_understood() -> None:
    drawn = [draw(page.read_text(encoding="utf-8")) for page in sorted(DOCS.rglob("pages/**/*.md"))]
    formulas = [found for text in drawn for found in re.findall(r"<math.*?</math>", text, re.DOTALL)]

    assert len(formulas) > 40
    # A command that is not known comes out as it went in.
    assert [one for one in formulas if "\\" in one] == []
