"""What another process needs to sample from the same weights: one line of text without a secret (protocol 7.9)."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from tinkex_actors.errors import InputError

__all__ = ["SamplerHandle"]


class SamplerHandle(msgspec.Struct, frozen=True, kw_only=True):
    """A sampling session by name, in the official client's form.

    ``str(handle)`` is text for a command line or a queue; :meth:`parse` reads it back. Handles pickle. They hold no
    credential: who rebuilds a client from one uses its own.

    Args:
        session_id: the session it belongs to.
        sampling_session_id: the server's name for it.
        base_url: where the server is, without user and password.
        base_model: the model behind the weights, where it is known.
    """

    session_id: str
    sampling_session_id: str
    base_url: str = ""
    base_model: str | None = None

    def __str__(self) -> str:
        state = {
            "session_id": self.session_id,
            "sampling_session_id": self.sampling_session_id,
            "holder": {
                "base_url": self.base_url,
                "default_headers_overrides": None,
                "client_config": None,
                "client_dynamic_config": None,
                "api_key": None,
            },
            "base_model": self.base_model,
            "record_stability_info": False,
        }
        return base64.urlsafe_b64encode(msgspec.json.encode(state)).decode()

    @classmethod
    def parse(cls, text: str) -> SamplerHandle:
        """Read a handle that this client or the official one wrote.

        Raises:
            InputError: it is none.
        """
        try:
            state = msgspec.json.decode(base64.urlsafe_b64decode(text.encode() + b"==="), type=dict[str, Any])
            holder = state.get("holder") or {}
            found = {name: state.get(name) for name in ("session_id", "sampling_session_id", "base_model")}
            return msgspec.convert({**found, "base_url": holder.get("base_url") or ""}, cls)
        except (binascii.Error, ValueError, AttributeError, msgspec.MsgspecError) as error:
            raise InputError(
                f"{text[:20]!r}... is no sampler handle: {error}. Pass what get_sampler_handle() gave, whole."
            ) from error
