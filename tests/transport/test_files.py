"""Files behind links: by proxy and TLS, over redirects, from any byte on; no link and no credential is shown."""

from __future__ import annotations

import asyncio
import base64
import ssl
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.transport.servers import Talk, answer, answering, listening
from tinkex_actors import APIConnectionError, APIStatusError, APITimeoutError, Config, ConfigError
from tinkex_actors.transport import ProxyChallenge
from tinkex_actors.transport.files import FileOnItsWay, open_link

BASIC = "Basic " + base64.b64encode(b"me:pa ss").decode()
SECRETS = ("pa ss", "pa%20ss", BASIC, "Signature=hush")
LINK = "/file?X-Amz-Signature=hush"


async def read(url: str, *, config: Config | None = None, **options: Any) -> tuple[FileOnItsWay, bytes]:
    async with open_link(url, config=config or Config(), **options) as file:
        return file, b"".join([piece async for piece in file.pieces])


def tunnel(port: int, heads: list[bytes]) -> Talk:
    """A proxy that lets everybody through, to one port."""

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        there, back = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(carry(reader, back), carry(there, writer))

    return talk


async def test_a_file_comes_whole_or_from_a_byte_on() -> None:
    heads: list[bytes] = []
    part = answer("206 Partial Content", b"cd", content_range="bytes 2-3/4", etag='"t"')
    async with listening(answering(answer(body=b"abcd", etag='"t"'), part, heads=heads)) as port:
        whole, body = await read(f"http://127.0.0.1:{port}{LINK}")
        rest, end = await read(f"http://127.0.0.1:{port}{LINK}", first=2, tag='"t"')

    assert (whole.first, whole.total, whole.tag, body) == (0, 4, '"t"', b"abcd")
    assert (rest.first, rest.total, rest.tag, end) == (2, 4, '"t"', b"cd")
    assert heads[0].startswith(f"GET {LINK} ".encode())
    assert b"Range: bytes=2-" in heads[1]
    assert b'If-Range: "t"' in heads[1]
    assert not any(name in heads[0].lower() for name in (b"x-api-key", b"authorization", b"cookie"))


async def test_the_date_names_a_content_that_has_no_other_name_and_a_weak_name_is_not_asked_by() -> None:
    heads: list[bytes] = []
    date = "Sun, 22 Nov 2026 03:00:00 GMT"
    async with listening(answering(answer(last_modified=date), heads=heads)) as port:
        file, _ = await read(f"http://127.0.0.1:{port}/")
        await read(f"http://127.0.0.1:{port}/", first=1, tag=date)
        await read(f"http://127.0.0.1:{port}/", first=1, tag='W/"t"')

    assert file.tag == date
    assert b"If-Range: Sun" in heads[1]
    assert b"If-Range" not in heads[2]


async def test_bytes_come_as_they_are_stored() -> None:
    async with listening(answering(answer(body=b"\x1f\x8b not gzip", content_encoding="gzip"))) as port:
        assert (await read(f"http://127.0.0.1:{port}/"))[1] == b"\x1f\x8b not gzip"


async def test_an_own_authority_is_trusted_where_it_is_named_and_only_there(
    identity: ssl.SSLContext, ca_file: Path
) -> None:
    async with listening(answering(answer(body=b"abcd")), identity) as port:
        assert (await read(f"https://localhost:{port}{LINK}", config=Config(ca_file=ca_file)))[1] == b"abcd"
        with pytest.raises(APIConnectionError, match="localhost: the file's connection failed") as caught:
            await read(f"https://localhost:{port}{LINK}")
    assert_nothing_shown(caught.value)
    with pytest.raises(ConfigError, match="ca_file"):
        await read("https://localhost:1/", config=Config(ca_file=Path("/nowhere.pem")))


async def test_a_redirect_to_tls_is_followed_with_the_same_trust(identity: ssl.SSLContext, ca_file: Path) -> None:
    async with (
        listening(answering(answer(body=b"abcd")), identity) as there,
        listening(answering(answer("302 Found", b"", location=f"https://localhost:{there}{LINK}"))) as here,
    ):
        assert (await read(f"http://127.0.0.1:{here}/", config=Config(ca_file=ca_file)))[1] == b"abcd"


async def test_a_redirect_out_of_tls_is_not_even_asked(identity: ssl.SSLContext, ca_file: Path) -> None:
    heads: list[bytes] = []
    async with (
        listening(answering(answer(), heads=heads)) as plain,
        listening(answering(answer("302 Found", b"", location=f"http://127.0.0.1:{plain}/")), identity) as secure,
    ):
        with pytest.raises(APIConnectionError, match="from https to http"):
            await read(f"https://localhost:{secure}{LINK}", config=Config(ca_file=ca_file))
    assert heads == []


@pytest.mark.parametrize("location", ["/again", "file:///etc/passwd"])
async def test_redirects_end(location: str) -> None:
    async with listening(answering(answer("307 Temporary Redirect", b"", location=location))) as port:
        with pytest.raises(APIConnectionError, match="not followed"):
            await read(f"http://127.0.0.1:{port}{LINK}")


async def test_a_plain_link_goes_through_the_proxy_with_its_credentials() -> None:
    heads: list[bytes] = []
    async with listening(answering(answer(body=b"abcd"), heads=heads)) as port:
        config = Config(proxy=f"http://me:pa%20ss@127.0.0.1:{port}")
        assert (await read(f"http://files.example{LINK}", config=config))[1] == b"abcd"
    assert heads[0].startswith(f"GET http://files.example{LINK} ".encode())
    assert BASIC.encode() in heads[0]


async def test_a_tunnel_gets_the_proxys_credentials_and_the_files_host_does_not(
    identity: ssl.SSLContext, ca_file: Path
) -> None:
    seen: list[bytes] = []
    heads: list[bytes] = []
    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(listening(answering(answer(body=b"abcd"), heads=seen), identity))
        proxy = await stack.enter_async_context(listening(tunnel(there, heads)))
        config = Config(proxy=f"http://me:pa%20ss@127.0.0.1:{proxy}", ca_file=ca_file)
        assert (await read(f"https://localhost:{there}{LINK}", config=config))[1] == b"abcd"
    assert heads[0].startswith(f"CONNECT localhost:{there}".encode())
    assert BASIC.encode() in heads[0]
    assert b"hush" not in heads[0]
    assert b"proxy-authorization" not in seen[0].lower()


async def test_a_redirect_from_a_plain_host_into_a_tunnel_does_not_carry_the_proxys_credentials_on(
    identity: ssl.SSLContext, ca_file: Path
) -> None:
    seen: list[bytes] = []
    heads: list[bytes] = []
    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(listening(answering(answer(body=b"abcd"), heads=seen), identity))
        moved = answer("302 Found", b"", location=f"https://localhost:{there}{LINK}", connection="close")
        through = tunnel(there, heads)

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not heads:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(moved)
                await writer.drain()
            else:
                await through(reader, writer)

        proxy = await stack.enter_async_context(listening(talk))
        config = Config(proxy=f"http://me:pa%20ss@127.0.0.1:{proxy}", ca_file=ca_file)
        assert (await read("http://files.example/", config=config))[1] == b"abcd"
    assert [BASIC.encode() in head for head in heads] == [True, True]
    assert b"proxy-authorization" not in seen[0].lower()


async def test_a_host_of_no_proxy_is_reached_directly_also_at_the_end_of_a_redirect() -> None:
    async with listening(answering(answer(body=b"abcd"))) as there:
        moved = answer("302 Found", b"", location=f"http://127.0.0.1:{there}/")
        async with listening(answering(moved)) as proxy:
            config = Config(proxy=f"http://127.0.0.1:{proxy}", no_proxy="127.0.0.1")
            assert (await read("http://files.example/", config=config))[1] == b"abcd"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses_is_named_and_the_program_may_answer_it(scheme: str) -> None:
    refusal = answer(
        "407 Proxy Authentication Required", b"", proxy_authenticate='Bearer realm="r"', connection="close"
    )

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(refusal)
        await writer.drain()

    heads: list[bytes] = []
    asked: list[ProxyChallenge] = []

    def authorize(challenge: ProxyChallenge) -> str:
        asked.append(challenge)
        return "Bearer ticket"

    async with listening(refuse) as port:
        for hook, tries in ((None, 1), (authorize, 2)):
            heads.clear()
            config = Config(proxy=f"http://me:pa%20ss@127.0.0.1:{port}", proxy_authorize=hook)
            with pytest.raises(APIStatusError, match=r"127\.0\.0\.1.*Bearer realm.*proxy_authorize") as caught:
                await read(f"{scheme}://files.example{LINK}", config=config)
            assert caught.value.status_code == 407
            assert_nothing_shown(caught.value)
            assert len(heads) == tries
    assert [challenge.schemes for challenge in asked] == [("Bearer",)] * len(asked)
    assert b"Bearer ticket" in heads[1]


async def stop_short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(answer(body=b"x" * 1000)[:-10])
    await writer.drain()


async def fall_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(answer(body=b"x" * 1000)[:-10])
    await writer.drain()
    await reader.read()


@pytest.mark.parametrize(("talk", "kind"), [(stop_short, APIConnectionError), (fall_silent, APITimeoutError)])
async def test_a_file_that_breaks_off_is_an_error_of_the_connection(
    talk: Callable[..., Awaitable[None]], kind: type[APIConnectionError]
) -> None:
    got = b""

    async def read_on() -> None:
        nonlocal got
        async with open_link(f"http://127.0.0.1:{port}{LINK}", config=Config(read_timeout=0.2)) as file:
            async for piece in file.pieces:
                got += piece

    async with listening(talk) as port:
        with pytest.raises(kind) as caught:
            await read_on()
    assert type(caught.value) is kind
    assert got == b"x" * 990
    assert_nothing_shown(caught.value)


async def test_what_fails_in_the_readers_hands_is_not_the_connections() -> None:
    async with listening(answering(answer(body=b"abcd"))) as port:
        with pytest.raises(OSError, match="disk") as caught:
            async with open_link(f"http://127.0.0.1:{port}/", config=Config()):
                raise OSError(28, "disk")
    assert caught.value.errno == 28


def assert_nothing_shown(error: BaseException) -> None:
    shown = "".join(traceback.format_exception(error))
    assert not any(secret in shown for secret in SECRETS)
