"""A proxy gets its credentials and nothing else does; its challenges reach the program; nothing of them is shown."""

from __future__ import annotations

import asyncio
import base64
import traceback
from collections.abc import Awaitable, Callable

import pytest

from tests.transport.servers import answer, answering, get, listening
from tinkex_actors import APIConnectionError, Config, ConfigError
from tinkex_actors.transport import ProxyChallenge
from tinkex_actors.transport.http import HttpTransport
from tinkex_actors.wire.exchange import Response

PASSWORD = "pa ss"
BASIC = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
REFUSAL = answer("407 Proxy Authentication Required", b"", proxy_authenticate='Bearer realm="r"')


async def sent_through(talk: Callable[..., Awaitable[None]], url: str, **options: object) -> Response:
    async with listening(talk) as port:
        config = Config(proxy=f"http://me:pa%20ss@127.0.0.1:{port}", **options)  # type: ignore[arg-type]
        transport = HttpTransport(url, config=config)
        try:
            return await transport.send(get(X_API_Key="tml-abc"))
        finally:
            await transport.close()


async def test_a_plain_request_goes_through_the_proxy_with_percent_decoded_credentials() -> None:
    heads: list[bytes] = []
    response = await sent_through(answering(answer(), heads=heads), "http://tinker.example")

    assert response.status == 200
    assert heads[0].startswith(b"GET http://tinker.example/api/v1/healthz HTTP/1.1")
    assert f"proxy-authorization: {BASIC}".encode() in heads[0].lower().replace(BASIC.lower().encode(), BASIC.encode())


async def test_a_tunnel_is_asked_for_with_the_credentials_and_without_the_key() -> None:
    heads: list[bytes] = []
    with pytest.raises(APIConnectionError, match="502") as caught:
        await sent_through(answering(answer("502 Bad Gateway", b""), heads=heads), "https://tinker.example")

    assert heads[0].startswith(b"CONNECT tinker.example:443")
    assert BASIC.encode() in heads[0]
    assert b"tml-abc" not in heads[0]
    shown = "".join(traceback.format_exception(caught.value))
    assert not any(secret in shown for secret in (PASSWORD, "pa%20ss", BASIC))


async def test_headers_for_the_proxy_win_over_its_url_and_stay_with_it() -> None:
    heads: list[bytes] = []
    headers = {"Proxy-Authorization": "Basic mine", "X-Via": "me"}
    with pytest.raises(APIConnectionError):
        await sent_through(
            answering(answer("502 Bad Gateway", b""), heads=heads), "https://tinker.example", proxy_headers=headers
        )

    assert b"Basic mine" in heads[0]
    assert b"X-Via: me" in heads[0]
    assert BASIC.encode() not in heads[0]


@pytest.mark.parametrize("url", ["http://tinker.example", "https://tinker.example"])
async def test_a_refusal_of_the_proxy_is_final_and_says_what_it_wants(url: str) -> None:
    response = await sent_through(answering(REFUSAL), url)

    assert response.status == 407
    assert b'Bearer realm=\\"r\\"' in response.body
    assert b"Config.proxy_authorize" in response.body
    assert b"ss" not in response.body.replace(b"Ba" + b"ss", b"").split(b"asks")[0]


async def test_the_program_answers_a_challenge_once_and_its_answer_is_kept() -> None:
    seen: list[ProxyChallenge] = []
    heads: list[bytes] = []

    async def authorize(challenge: ProxyChallenge) -> str:
        await asyncio.sleep(0)
        seen.append(challenge)
        return "Bearer token-1"

    two = answer(
        "407 Proxy Authentication Required", b"", proxy_authenticate='Negotiate\r\nproxy-authenticate: Basic realm="r"'
    )
    async with listening(answering(two, answer(), heads=heads)) as port:
        transport = HttpTransport(
            "http://tinker.example", config=Config(proxy=f"http://127.0.0.1:{port}", proxy_authorize=authorize)
        )
        statuses = [(await transport.send(get())).status for _ in range(2)]
        await transport.close()

    assert statuses == [200, 200]
    assert [challenge.schemes for challenge in seen] == [("Negotiate", "Basic")]
    assert [b"Bearer token-1" in head for head in heads] == [False, True, True]


async def test_a_hook_that_gives_up_or_repeats_itself_ends_in_the_refusal() -> None:
    for authorize in (lambda _: None, lambda _: BASIC):
        response = await sent_through(answering(REFUSAL), "https://tinker.example", proxy_authorize=authorize)
        assert response.status == 407


@pytest.mark.parametrize("wrong", [5, "two\nlines"])
async def test_a_hook_that_returns_no_header_is_told_so(wrong: object) -> None:
    with pytest.raises(ConfigError, match="proxy_authorize must return"):
        await sent_through(answering(REFUSAL), "https://tinker.example", proxy_authorize=lambda _: wrong)


async def test_a_hook_that_raises_is_named() -> None:
    def authorize(challenge: ProxyChallenge) -> str:
        raise KeyError("ticket")

    with pytest.raises(ConfigError, match="proxy_authorize raised KeyError"):
        await sent_through(answering(REFUSAL), "https://tinker.example", proxy_authorize=authorize)


async def test_a_host_of_no_proxy_is_reached_directly() -> None:
    async with listening(answering(answer())) as port:
        config = Config(proxy="http://127.0.0.1:1", no_proxy="127.0.0.1")
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=config)
        assert (await transport.send(get())).status == 200
        await transport.close()
