"""The key that requests carry: exchanged, renewed, rotated, replaced when refused; never twice, never shown."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.interposed import Interposed, json_answer
from tinkex_actors import AuthenticationError, Config, CredentialsError, ServiceClient
from tinkex_actors.actors.link import CredentialReplaced
from tinkex_actors.testing import virtual_time
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.server import encode_error

INVALID = 'Bearer error="invalid_token"'


def jwt(number: int, life: float = 1000.0, issued: float = 5.0) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part({'iat': issued, 'exp': issued + life, 'n': number})}.sig"


class Exchanging(Interposed):
    """A server that exchanges keys for tokens and can refuse the tokens it gave."""

    def __init__(self, life: float = 1000.0, source: str = "api_key") -> None:
        super().__init__(self.exchange)
        self.life = life
        self.source = source
        self.given: list[str] = []
        self.refused: set[str] = set()
        self.down = False
        self.challenge = INVALID

    def exchange(self, request: Request) -> Response | None:
        if "client/config" in request.path:
            return json_answer({"pjwt_auth_enabled": True, "credential_default_source": self.source})
        if "auth/token" in request.path:
            if self.down:
                return encode_error(503, "not now")
            self.given.append(jwt(len(self.given), self.life))
            return json_answer({"jwt": self.given[-1]})
        if request.headers.get("X-API-Key") in self.refused:
            return json_answer({"detail": "no"}, 401, www_authenticate=self.challenge)
        return None

    def keys(self, path: str) -> list[str]:
        return [request.headers.get("X-API-Key", "") for request in self.to(path)]


@virtual_time()
async def test_a_key_is_exchanged_for_a_token_that_everything_else_carries() -> None:
    server = Exchanging()
    async with server.service(api_key="tml-key") as service:
        await service.get_server_capabilities()

    assert server.keys("client/config") == ["tml-key"]
    assert server.keys("auth/token") == ["tml-key"]
    rest = [request for request in server.requests if "config" not in request.path and "auth" not in request.path]
    assert {request.headers["X-API-Key"] for request in rest} == {server.given[0]}


@virtual_time()
async def test_a_token_is_renewed_at_half_its_life_and_nobody_waits() -> None:
    server = Exchanging(life=1000.0)
    async with server.service(api_key="tml-key"):
        await asyncio.sleep(2000.0)

    assert 4 <= len(server.given) <= 5
    beats = server.keys("session_heartbeat")
    assert set(beats) <= set(server.given)
    assert list(dict.fromkeys(beats)) == server.given[: len(set(beats))], "each one in its turn"


@virtual_time()
async def test_a_renewal_that_fails_leaves_the_old_token_in_use_while_it_lives() -> None:
    server = Exchanging(life=1000.0)
    async with server.service(api_key="tml-key") as service:
        await service.get_server_capabilities()
        server.down = True
        await asyncio.sleep(800.0)
        assert set(server.keys("session_heartbeat")) == {server.given[0]}
        tries = len(server.to("auth/token"))
        assert 4 <= tries <= 8, "about one a minute"
        server.down = False
        await asyncio.sleep(70.0)
        await service.get_server_capabilities()

    assert len(server.given) == 2


@virtual_time()
async def test_a_refused_token_is_replaced_once_for_all_who_were_refused() -> None:
    server = Exchanging()
    async with server.service(api_key="tml-key") as service:
        await service.get_server_capabilities()
        server.refused = {server.given[0]}
        asked = [service.get_server_capabilities() for _ in range(5)]
        await asyncio.gather(*asked)

    assert len(server.given) == 2


@virtual_time()
async def test_a_token_that_stays_refused_and_a_plain_401_are_final() -> None:
    for challenge, exchanges in ((INVALID, 2), ("Bearer", 1)):
        server = Exchanging()
        server.challenge = challenge
        async with server.service(api_key="tml-key") as service:
            await service.get_server_capabilities()
            server.refused = {jwt(number) for number in range(10)}
            with pytest.raises(AuthenticationError):
                await service.get_server_capabilities()
            server.refused = set()
        assert len(server.given) == exchanges


class Rotating(Interposed):
    """A server that takes one key at a time, and what hands that key out."""

    def __init__(self) -> None:
        super().__init__(lambda request: None if request.headers.get("X-API-Key") == self.good else self.refusal())
        self.good = "tml-key-0"
        self.asked = 0

    def refusal(self) -> Response:
        return encode_error(401, f"the key is not {self.good}")

    async def provide(self) -> str:
        self.asked += 1
        await asyncio.sleep(0.1)
        return self.good


@virtual_time()
async def test_a_key_is_rotated_without_a_restart_and_requests_under_way_finish() -> None:
    server = Rotating()
    replaced: list[object] = []
    async with server.service(credential_provider=server.provide) as service:
        service.system.events.subscribe(replaced.append, CredentialReplaced)
        training = await service.create_lora_training_client("m")
        under_way = training.save_state("before")
        await asyncio.sleep(0.05)
        server.good = "tml-key-1"
        asked = [service.get_server_capabilities() for _ in range(4)]
        await asyncio.gather(*asked)
        assert (await under_way).path

    assert server.asked == 2, "once at the start, and once for all that were refused"
    assert replaced
    assert all("tml" not in repr(event) for event in replaced)


@virtual_time()
async def test_a_provider_is_asked_again_before_its_key_is_refused() -> None:
    server = Rotating()
    async with server.service(credential_provider=server.provide):
        await asyncio.sleep(1000.0)

    assert 3 <= server.asked <= 5
    assert not [request for request in server.requests if request.headers["X-API-Key"] != "tml-key-0"]


@virtual_time()
async def test_a_provider_that_fails_is_named_and_an_old_key_is_kept() -> None:
    answers: list[Any] = [KeyError("hush"), "tml-key-0", OSError("vault is away"), "tml-key-0"]

    def provide() -> str:
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(found, Exception):
            raise found
        return str(found)

    with pytest.raises(CredentialsError, match="credential_provider raised KeyError"):
        async with Rotating().service(credential_provider=provide):
            pass
    async with Rotating().service(credential_provider=provide) as service:
        await asyncio.sleep(400.0)
        await service.get_server_capabilities()


@pytest.mark.parametrize(("found", "words"), [("", "nothing"), ("two words", "no header can carry"), (5, "int")])
@virtual_time()
async def test_a_provider_that_gives_no_credential_is_told_so(found: object, words: str) -> None:
    with pytest.raises(CredentialsError, match=words):
        async with Rotating().service(credential_provider=lambda: found):
            pass


def command(path: Path, text: str) -> str:
    path.write_text(f"print({text!r})", encoding="utf-8")
    return f'"{sys.executable}" "{path}"'


async def test_a_command_gives_the_credential(tmp_path: Path) -> None:
    server = Rotating()
    async with server.service(credential_command=command(tmp_path / "key.py", "  tml-key-0  ")) as service:
        await service.get_server_capabilities()

    assert {request.headers["X-API-Key"] for request in server.requests} == {"tml-key-0"}


async def test_the_server_may_want_the_command_rather_than_the_key(tmp_path: Path) -> None:
    server = Exchanging(source="credential_cmd")
    printed = command(tmp_path / "key.py", "tml-printed")
    async with server.service(api_key="tml-key", credential_command=printed) as service:
        await service.get_server_capabilities()

    assert server.keys("client/config") == ["tml-key"]
    assert server.keys("auth/token") == ["tml-printed"]


async def test_a_command_that_prints_nothing_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"TINKER_CREDENTIAL_CMD, exit status 0\) printed nothing"):
        async with Rotating().service(credential_command=command(tmp_path / "key.py", "")):
            pass


@virtual_time()
async def test_a_jwt_that_has_expired_is_never_sent() -> None:
    server = Interposed()
    with pytest.raises(CredentialsError, match="expired"):
        async with server.service(api_key=jwt(0, life=1.0)):
            pass

    assert server.requests == []


def test_a_remote_server_is_content_with_any_source_of_a_key() -> None:
    for options in ({"credential_command": "x"}, {"credential_provider": lambda: "x"}):
        ServiceClient(config=Config(base_url="https://tinker.example", **options))  # type: ignore[arg-type]
    with pytest.raises(CredentialsError, match="TINKER_CREDENTIAL_CMD"):
        ServiceClient(config=Config(base_url="https://tinker.example"))


@virtual_time()
async def test_a_key_of_the_programs_own_headers_is_left_alone() -> None:
    server = Interposed()
    async with server.service(api_key="tml-key", default_headers={"x-api-key": "mine"}):
        pass

    for request in server.requests:
        assert [value for name, value in request.headers.items() if name.lower() == "x-api-key"] == ["mine"]
