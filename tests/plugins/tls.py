"""An authority that nobody trusts until its file is named, and what a server on loopback shows of it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

__all__ = ["authority", "ca_file", "identity"]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """An authority of the tests' own."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    """Its certificate, for ``Config.ca_file``."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def identity(authority: trustme.CA) -> ssl.SSLContext:
    """What a server at ``localhost`` or ``127.0.0.1`` shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context
