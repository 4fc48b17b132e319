"""Write the page that lists every type: ``python docs/types_page.py``; with ``--check``, say whether it is up to date.

Names, fields, types and defaults come from the code, the versions from ``types_since.toml``.
"""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from tinkex_actors import types

HERE = Path(__file__).resolve().parent
PAGE = HERE / "pages" / "reference" / "types.md"
SINCE = HERE / "types_since.toml"

INTRO = """\
# Types

<!-- Made by docs/types_page.py from the code and docs/types_since.toml: edit those, then `make generate`. -->

Every request, response, enumeration and telemetry event, under its official name. All are imported from the root:
`from tinkex_actors import Datum`. What each means stands in the [API](api.md#types).

Records are frozen, compare by value, pickle, and are checked when they are made: an `InputError` names the record, the
field, what was expected and what came. Sequences become lists, and numbers of numpy, JAX and torch become Python's.
Their representation leaves out what is at its default and stays short.

*Since* says which client's wire had a type first, or a field where that is later: the official Python client's 0.7,
0.25 or 0.38, or the Elixir client tinkex 0.4 (servers written for it use them). A dash as default marks a field that
must be given.
"""

GROUPS = {
    "model_input": "Model input",
    "datum": "Training data",
    "tensor": "Tensors",
    "training": "Training",
    "optimizer": "Adapters and optimizers",
    "custom_loss": "Custom losses",
    "sampling": "Sampling",
    "model": "Models",
    "weights": "Weights",
    "futures": "Promises",
    "session": "Sessions and samplers",
    "service": "Service",
    "telemetry": "Telemetry",
    "rest.checkpoints": "Checkpoints",
    "rest.training_runs": "Training runs",
    "rest.sessions": "Listed sessions",
    "rest.session_search": "Session search",
    "rest.session_status": "Session status",
    "rest.billing": "Billing",
    "rest.audit": "Audit log",
    "rest.identity": "Keys and identity",
}


def page() -> str:
    """Return the page's text.

    Raises:
        SystemExit: a type or a field has no version, or a version has no type.
    """
    told = tomllib.loads(SINCE.read_text(encoding="utf-8"))
    versions = {name: version for version, names in told["types"].items() for name in names.split()}
    listed = {name for name in types.__all__ if name[0].isupper()}
    if unclear := sorted(listed ^ versions.keys()):
        raise SystemExit(f"{SINCE.name}: give each type one version; to add or remove: {', '.join(unclear)}")
    later = told["fields"]
    parts = [INTRO]
    for module, title in GROUPS.items():
        home = sys.modules[f"tinkex_actors.types.{module}"]
        parts.append(f"\n## {title}\n")
        for name in home.__all__:
            if name in listed:
                parts.append(_entry(name, getattr(home, name), versions[name], later))
                listed.discard(name)
    if listed or later:
        raise SystemExit(f"types without a group: {sorted(listed)}; fields that are nowhere: {sorted(later)}")
    rows = "".join(f"| `{name.replace(', ', '`, `')}` | {place} |\n" for name, place in told["elsewhere"].items())
    parts.append(
        "\n## Names of other clients\n\nWhat they have under a name of its own, and is something else here.\n\n"
        f"| name | here |\n|---|---|\n{rows}"
    )
    return "".join(parts)


def _entry(name: str, value: Any, version: str, later: dict[str, str]) -> str:
    head = f"\n### {name}\n\nSince {version}."
    if not isinstance(value, type) or value is str:
        return f"{head} `{_alias(value)}`\n"
    if value.__name__ != name:
        return f"{head} Another name of `{value.__name__}`.\n"
    summary = _sentence(inspect.getdoc(value) or "")
    fields = _fields(value)
    if not fields:
        return f"{head} {summary} No fields.\n"
    rows = "".join(
        f"| `{field}` | {_code(kind)} | {_code(default)} | {later.pop(f'{name}.{field}', version)} |\n"
        for field, kind, default in fields
    )
    return f"{head} {summary}\n\n| field | type | default | since |\n|---|---|---|---|\n{rows}"


def _fields(record: type) -> list[tuple[str, str, str]]:
    """Return name, type and default of each field, the wire's discriminator first."""
    if not issubclass(record, msgspec.Struct):
        parameters = list(inspect.signature(record).parameters.values())
        return [(one.name, str(one.annotation), _default(one.default, inspect.Parameter.empty)) for one in parameters]
    hints = {
        name: hint for kind in reversed(record.__mro__) for name, hint in vars(kind).get("__annotations__", {}).items()
    }
    fields = [
        (field.name, _bounds(hints[field.name]), _default(_given(field), msgspec.NODEFAULT))
        for field in msgspec.structs.fields(record)
    ]
    config = record.__struct_config__
    return [(config.tag_field, "str", repr(config.tag)), *fields] if config.tag_field else fields


def _given(field: Any) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _default(value: Any, missing: Any) -> str:
    return "" if value is missing else repr(value)


def _bounds(hint: str) -> str:
    """Return an annotation with its bounds in words: ``Annotated[int, Meta(ge=1)]`` is ``int, ge 1``."""
    hint = hint.replace("ExpectedTokens", "Annotated[int, Meta(ge=0)]").replace("npt.NDArray[np.", "ndarray[")
    hint = hint.replace("ImageFormat", "Literal['png', 'jpeg']")
    return re.sub(r"Annotated\[(.+?), Meta\(([^)]*)\)\]", lambda m: f"{m[1]} ({m[2].replace('=', ' ')})", hint)


def _alias(value: Any) -> str:
    if value is str:
        return "str"
    return re.sub(r"tinkex_actors\.types\.[\w.]*?(?=[A-Z])|typing\.", "", str(value))


def _sentence(doc: str) -> str:
    first = " ".join(doc.split("\n\n")[0].split())
    return re.sub(r"``([^`]*)``", r"`\1`", first)


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`" if text else "-"


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` return 1 when it is not what it should be."""
    text = page()
    if "--check" not in arguments:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{PAGE.name} is out of date. Run `make generate` and commit the result.\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
