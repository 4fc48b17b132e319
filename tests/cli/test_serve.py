"""``serve`` as a process: it says where it listens, answers, and stops in order on a signal."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tinkex_actors", "serve", "--model", "tiny", "--port", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found, line
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_and_stops_in_order_on_a_signal(server: subprocess.Popen[str], number: signal.Signals) -> None:
    url = address(server)
    with urllib.request.urlopen(f"{url}/api/v1/healthz", timeout=30) as response:
        assert response.status == 200
        assert json.load(response)["status"] == "ok"

    server.send_signal(number)
    _, errors = server.communicate(timeout=30)

    assert server.returncode == 0, errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_serving_on_a_taken_port_is_one_line_of_error(server: subprocess.Popen[str]) -> None:
    port = address(server).rpartition(":")[2]

    done = subprocess.run(
        [sys.executable, "-m", "tinkex_actors", "serve", "--model", "tiny", "--port", port],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert port in done.stderr


@pytest.mark.slow
def test_serving_an_unknown_model_is_one_line_of_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tinkex_actors", "serve", "--model", "gpt-17", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert "gpt-17" in done.stderr
