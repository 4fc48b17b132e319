"""What doctor finds on this machine and on a server, and what it does not show."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path

import msgspec
import pytest

from tests.plugins.every_server import SERVERS, over_http
from tinkex_actors.cli.doctor import Finding, examine
from tinkex_actors.cli.server_check import server_findings
from tinkex_actors.config import Config
from tinkex_actors.transport.server import serve
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.server import encode_error


def by_topic(found: list[Finding]) -> dict[str, list[Finding]]:
    topics: dict[str, list[Finding]] = {}
    for finding in found:
        topics.setdefault(finding.topic, []).append(finding)
    return topics


async def test_a_missing_key_is_told_and_nothing_is_sent() -> None:
    said: list[Finding] = []
    found = by_topic(await examine("https://tinker.invalid", say=said.append))

    assert [finding.state for finding in found["key"]] == ["bad"]
    assert "TINKER_API_KEY" in found["key"][0].text
    [server] = found["server"]
    assert (server.state, "was not asked" in server.text) == ("note", True)
    assert sorted(map(str, said)) == sorted(str(finding) for topic in found.values() for finding in topic)


async def test_a_key_and_a_proxy_are_told_of_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-very-secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:pass-word@127.0.0.1:9")
    found = await examine("https://tinker.invalid")
    topics = by_topic(found)

    assert topics["key"] == [Finding("key", "ok", "set")]
    assert topics["proxy"] == [Finding("proxy", "ok", "http://***@127.0.0.1:9")]
    assert topics["server"][0].state == "bad", "there is no such proxy"
    text = "".join(map(str, found))
    assert "very-secret" not in text
    assert "pass-word" not in text


async def test_a_setting_that_cannot_be_read_is_where_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_LOG", "http=loud")
    found = await examine("http://127.0.0.1:1")
    assert found[-1].topic == "settings"
    assert found[-1].state == "bad"
    assert "TINKEX_LOG" in found[-1].text


async def test_a_folder_that_cannot_be_written_is_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a").write_bytes(b"x" * 1_500_000)
    monkeypatch.setenv("TINKEX_STATE_DIR", str(tmp_path / "file" / "state"))
    monkeypatch.setenv("TINKEX_ENGINE_STORE", str(tmp_path / "store"))
    topics = by_topic(await examine("https://tinker.invalid"))

    [state] = topics["state"]
    assert state.state == "bad"
    assert "TINKEX_STATE_DIR" in state.text
    assert "1 files, 1.5 MB" in topics["store"][0].text


@pytest.mark.slow
async def test_a_probe_finds_out_what_a_difficult_server_speaks(tmp_path: Path) -> None:
    async with over_http(tmp_path, SERVERS["everything at once, json"]) as url:
        config = Config(base_url=url, api_key="tml-any")
        topics = by_topic([finding async for finding in server_findings(config, probe="tiny")])

    assert topics["session"][0].state == "ok"
    assert topics["models"][0].text == "tiny"
    assert topics["training"][0].state == topics["sampling"][0].state == "ok"
    assert topics["clock"][0].state == "ok"
    assert topics["dialect"][0].text == "json dialect"
    lines = " ".join(finding.text for finding in topics["dialect"])
    assert "forward is posted to forward_backward" in lines


@pytest.mark.slow
async def test_a_probe_that_fails_is_bad(tmp_path: Path) -> None:
    async with over_http(tmp_path, SERVERS["hosted"]) as url:
        topics = by_topic([f async for f in server_findings(Config(base_url=url), probe="no-such-model")])
    assert topics["training"][0].state == topics["sampling"][0].state == "bad"
    assert "no-such-model" in topics["training"][0].text


class Odd:
    """A server that knows the wrong time, and little else."""

    def __init__(self, seconds_ahead: float) -> None:
        self.seconds_ahead = seconds_ahead

    async def send(self, request: Request) -> Response:
        import time

        if request.path.endswith("create_session"):
            response = Response(200, {"content-type": "application/json"}, b'{"session_id": "s"}')
        else:
            response = encode_error(404, "Not Found")
        response.headers["date"] = formatdate(time.time() + self.seconds_ahead, usegmt=True)
        return response

    async def close(self) -> None:
        pass


@asynccontextmanager
async def odd(seconds_ahead: float) -> AsyncIterator[str]:
    server = await serve(Odd(seconds_ahead))
    try:
        yield server.url
    finally:
        await server.close()


@pytest.mark.parametrize(("ahead", "word"), [(600.0, "behind"), (-600.0, "ahead of")])
async def test_a_clock_that_goes_wrong_is_bad(ahead: float, word: str) -> None:
    async with odd(ahead) as url:
        topics = by_topic([finding async for finding in server_findings(Config(base_url=url), probe=None)])

    [clock] = topics["clock"]
    assert clock.state == "bad"
    assert word in clock.text
    assert "600" in clock.text or "599" in clock.text
    assert topics["models"][0].state == "note", "a server that lists no models is no broken one"


async def test_a_server_that_is_no_tinker_server_is_bad() -> None:
    class Nothing(Odd):
        async def send(self, request: Request) -> Response:
            return encode_error(404, "Not Found")

    server = await serve(Nothing(0.0))
    try:
        config = Config(base_url=server.url)
        [finding] = [finding async for finding in server_findings(config, probe=None)]
    finally:
        await server.close()
    assert finding.state == "bad"
    assert "does not support sessions" in finding.text


@pytest.mark.slow
def test_the_command_prints_lines_or_json_and_its_exit_code_says_whether_all_is_well() -> None:
    def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "tinkex_actors", "doctor", *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=55, check=False)

    done = doctor("--base-url", "local://tiny", "--json")
    assert done.returncode == 0, done.stderr
    found = [msgspec.json.decode(line, type=Finding) for line in done.stdout.splitlines()]
    assert {"package", "key", "jax", "cache", "session", "dialect", "clock"} <= {finding.topic for finding in found}
    assert all(finding.state != "bad" for finding in found)

    done = doctor("--base-url", "https://tinker.invalid")
    assert done.returncode == 1
    assert "\nBAD  key " in done.stdout
