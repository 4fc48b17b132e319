"""Names say what a thing is, and the project says nothing about the machine it was written on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VAGUE = {"common", "data", "helpers", "holder", "impl", "manager", "misc", "util", "utils"}
HOME = re.compile(r"(?<![\w.$}/-])/(?:home|root|Users|work|workspace|mnt)/[\w.-]+")
URL = re.compile(r"https?://[^\s\"'`<>)\]},\\|]+")
# Reserved names (RFC 2606, RFC 6761) and loopback may stand anywhere: nobody owns them.
RESERVED = re.compile(
    r"(?:^|\.)(?:localhost|test|example|invalid|example\.(?:com|net|org))$|^(?:127\.|0\.0\.0\.0$|::1$|\[)"
)
PUBLIC = {
    "arxiv.org",
    "docs.astral.sh",
    "docs.python.org",
    "github.com",
    "huggingface.co",
    "keepachangelog.com",
    "pypi.org",
    "semver.org",
    "tinker-docs.thinkingmachines.ai",
    "tinker.thinkingmachines.ai",
    "tinker.thinkingmachines.dev",
    "www.apache.org",
    "www.erlang.org",
    "www.rfc-editor.org",
    "www.w3.org",  # the name of SVG
}


def tracked_texts() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    paths = (ROOT / name for name in listed.stdout.split("\0") if name and name != "uv.lock")
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:4096]]


def home_paths(text: str) -> list[str]:
    return HOME.findall(text)


def foreign_hosts(text: str) -> set[str]:
    hosts = set()
    for url in URL.findall(text):
        # By hand, since urlsplit refuses the malformed addresses that tests are made of.
        netloc = re.split(r"[/?#{]", url.partition("://")[2])[0].rpartition("@")[2]
        host = netloc if netloc.startswith("[") else netloc.partition(":")[0].lower()
        # A host without a dot is a placeholder (HOST, ...), and dots alone are an ellipsis.
        if "." in host.strip(".") and host not in PUBLIC and not RESERVED.search(host):
            hosts.add(host)
    return hosts


def test_no_module_has_a_vague_name() -> None:
    package = ROOT / "tinkex_actors"

    vague = [path.relative_to(ROOT) for path in package.rglob("*") if path.stem.lstrip("_") in VAGUE]

    assert vague == []


def test_no_path_of_a_machine_stands_in_the_project() -> None:
    here = f"{ROOT.parent}/" if len(ROOT.parent.parts) > 2 else None
    found = {}
    for path in tracked_texts():
        text = path.read_text(encoding="utf-8", errors="replace")
        hits = home_paths(text) + ([here] if here and here in text else [])
        if hits and path != Path(__file__).resolve():
            found[path.relative_to(ROOT)] = hits[:3]

    assert found == {}


def test_every_address_in_the_project_is_public_or_reserved() -> None:
    found = {
        path.relative_to(ROOT): hosts
        for path in tracked_texts()
        if path != Path(__file__).resolve()
        and (hosts := foreign_hosts(path.read_text(encoding="utf-8", errors="replace")))
    }

    assert found == {}


@pytest.mark.parametrize(
    ("text", "paths", "hosts"),
    [
        ("see /home/ada/project/x.py", ["/home/ada"], set()),
        ("GET /api/v1/healthz and tinker://run/weights/name", [], set()),
        ("index-url = https://packages.acme.dev/simple", [], {"packages.acme.dev"}),
        (
            "http://127.0.0.1:8000/api, http://localhost:1, https://a.example.com/x, https://HOST/PATH, https://...",
            [],
            set(),
        ),
    ],
)
def test_the_search_finds_what_it_should(text: str, paths: list[str], hosts: set[str]) -> None:
    assert home_paths(text) == paths
    assert foreign_hosts(text) == hosts
