"""Write the golden files of the wire: ``python -m tests.wire.golden_files``; with ``--check``, only compare.

A file holds one exchange's half as JSON: method, path, status and headers, and the body byte for byte, as it is in the
middle of the file (``body``; a text as a string; protobuf as ``body_base64``). Read what changed before committing it:
these files are what servers and clients of other makers are held against. Files named ``poll.*`` and ``error.*`` are
written by hand and left alone.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from tests.wire.golden_cases import FAILURES, REQUESTS, RESPONSES, RESULTS, Failure
from tinkex_actors.errors import APIStatusError
from tinkex_actors.wire.client import decode_response, encode_request
from tinkex_actors.wire.dialect import HOSTED, JSON, Dialect
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import encode_response, encode_result

FOLDER = Path(__file__).parent / "golden"
BY_HAND = ("poll.", "error.")
PROTOBUF_TYPE = "application/x-protobuf"


def write(fields: dict[str, Any], body: bytes) -> str:
    """Return a file's text: the fields, then the body as it is."""
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]
    headers = {name.lower(): value for name, value in fields["headers"].items()}
    media = headers.get("content-type", "")
    if body and "protobuf" in media:
        lines.append(f'  "body_base64": "{base64.b64encode(body).decode()}"')
    elif body:
        lines.append(f'  "body": {body.decode() if "json" in media else json.dumps(body.decode())}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(name: str) -> tuple[dict[str, Any], bytes]:
    """Return a file's fields and its body."""
    text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    fields: dict[str, Any] = json.loads(text)
    if "body_base64" in fields:
        return fields, base64.b64decode(fields["body_base64"])
    if isinstance(fields.get("body"), str):
        return fields, fields["body"].encode()
    _, found, rest = text.partition('  "body": ')
    return fields, rest.removesuffix("\n}\n").encode() if found else b""


def read_request(name: str) -> Request:
    """Return the request that a file holds."""
    fields, body = read(name)
    return Request(fields["method"], fields["path"], fields["headers"], body)


def read_response(name: str) -> Response:
    """Return the response that a file holds."""
    fields, body = read(name)
    return Response(fields["status"], fields.get("headers", {}), body)


def request_file(name: str, dialect: Dialect) -> str:
    """Return the file of the request of ``REQUESTS`` under that name."""
    message, path = REQUESTS[name]
    request = encode_request(ROUTES[name.split(".")[0]], message, dialect, path=path)
    return write({"method": request.method, "path": request.path, "headers": request.headers}, request.body)


def response_file(response: Response) -> str:
    """Return the file of an answer."""
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    return write({"status": response.status, "headers": headers}, response.body)


def failed(status: int, failure: Failure) -> Response:
    """Return the response of one of ``FAILURES``."""
    text = isinstance(failure.body, str)
    body = failure.body if text else json.dumps(failure.body, separators=(",", ":"))
    return Response(status, {"content-type": "application/json", **failure.headers}, body.encode())


def failure_file(name: str, status: int, failure: Failure) -> str:
    """Return the file of a failed answer: what was sent, and what the client says about it."""
    response = failed(status, failure)
    try:
        decode_response(ROUTES[name], response)
    except APIStatusError as error:
        said = {"error": type(error).__name__, "message": str(error), "retry_after": error.retry_after}
        return write({"status": status, "headers": response.headers, **said}, response.body)
    raise AssertionError(f"{name}: {status} is read as a success")


def render() -> dict[str, str]:
    """Return every generated file's text by its name."""
    files: dict[str, str] = {}
    for name in REQUESTS:
        files[f"{name}.request"] = request_file(name, JSON)
        if ROUTES[name.split(".")[0]].protobuf_request:
            files[f"{name}.request.protobuf"] = request_file(name, HOSTED)
    for name, message in RESPONSES.items():
        response = encode_response(ROUTES[name], message)
        files[f"{name}.response.{response.status}"] = response_file(response)
    for name, result in RESULTS.items():
        files[f"{name}.result.200"] = response_file(encode_result(ROUTES[name], result, "application/json"))
        if ROUTES[name].protobuf_result:
            files[f"{name}.result.200.protobuf"] = response_file(encode_result(ROUTES[name], result, PROTOBUF_TYPE))
    for name, failures in FAILURES.items():
        for status, failure in failures.items():
            files[f"{name}.response.{status}"] = failure_file(name, status, failure)
    return files


def present() -> dict[str, str]:
    """Return the text of every generated file on disk by its name."""
    return {
        path.name.removesuffix(".json"): path.read_text(encoding="utf-8")
        for path in sorted(FOLDER.glob("*.json"))
        if not path.name.startswith(BY_HAND)
    }


def main() -> int:
    """Write the files that differ and remove those of no case; with ``--check``, return 1 if there are any."""
    wanted, found = render(), present()
    stale = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if "--check" in sys.argv[1:]:
        print("\n".join(stale))
        return int(bool(stale))
    for name in stale:
        path = FOLDER / f"{name}.json"
        if name in wanted:
            path.write_text(wanted[name], encoding="utf-8")
        else:
            path.unlink()
    print(f"{len(stale)} of {len(wanted)} files written or removed in {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
