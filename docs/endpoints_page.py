"""Write the page that lists every endpoint: ``python docs/endpoints_page.py``; with ``--check``, only compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tinkex_actors import types
from tinkex_actors.wire.routes import PREFIX, ROUTES, Route

PAGE = Path(__file__).resolve().parent / "pages" / "reference" / "endpoints.md"

INTRO = f"""\
# Endpoints

<!-- Made by docs/endpoints_page.py from tinkex_actors/wire/routes.py: edit that, then `make generate`. -->

Every endpoint that the client calls and the local engine is asked for, below `{PREFIX}`. A *promise* is answered at
once with a `request_id`; its result comes from `retrieve_future`. Bodies are JSON, except that today's service takes
training passes, and gives their results and those of samples, as protobuf (marked *p*). `GET` requests carry their
fields in the query. Timeouts are those of one HTTP request, in seconds; of a stream, the longest silence in it.

`tests/wire/golden/` holds, byte for byte, a request, an answer and a result of each, and the failures it documents.
Servers of other makers can be held against these files.

| Method and path | Request | Answer | Timeout |
|---|---|---|---|
"""


def page() -> str:
    """Return the page's text."""
    return INTRO + "".join(f"{row(route)}\n" for route in ROUTES.values())


def row(route: Route) -> str:
    """Return one endpoint's line."""
    request = link(route.request) + (" *p*" if route.protobuf_request else "")
    answer = link(route.response)
    if route.asynchronous:
        answer = f"promise of {link(route.result)}" + (" *p*" if route.protobuf_result else "")
    elif route.name == "retrieve_future":
        answer = "the promise's result, or why there is none yet"
    elif route.streamed:
        answer = "[pieces](types.md#samplestreamchunk), as server-sent events"
    elif route.located:
        answer += ", as a redirect"
    return f"| {route.method} `{route.path}` | {request} | {answer} | {route.timeout:g} |"


def link(kind: Any) -> str:
    """Return the name of a type, linked to the page of types."""
    if kind is None:
        return "-"
    name = kind.__name__
    return f"[{name}](types.md#{name.lower()})" if name in types.__all__ else f"`{name}`"


def main() -> int:
    """Write the page, or with ``--check`` return 1 when it is out of date."""
    text = page()
    if "--check" in sys.argv[1:]:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
