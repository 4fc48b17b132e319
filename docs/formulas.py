"""Formulas in the pages, as MathML that browsers draw by themselves: no script, and no network.

A hook of mkdocs: ``$...$`` within a line, and blocks fenced as ``math``, are LaTeX.
"""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

__all__ = ["on_page_markdown"]

_CODE_OR_FORMULA = re.compile(
    r"^```math\n(?P<block>.*?)^```$|^(?:```|~~~).*?^(?:```|~~~)$|`[^`\n]*`|\$(?P<inline>[^$\n]+)\$",
    re.MULTILINE | re.DOTALL,
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with its formulas converted; what stands in code is left as it is."""

    def replaced(match: re.Match[str]) -> str:
        if match["block"] is not None:
            lines = match["block"].strip().split("\n\n")
            return "\n".join(f"<p>{convert(line, display='block')}</p>" for line in lines)
        return match[0] if match["inline"] is None else convert(match["inline"])

    return _CODE_OR_FORMULA.sub(replaced, markdown)
