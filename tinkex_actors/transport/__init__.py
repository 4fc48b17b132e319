"""The way to a server: the :class:`Transport` protocol and its HTTP implementation."""

from tinkex_actors.transport.base import TokenizerSource, Transport, open_transport

__all__ = ["TokenizerSource", "Transport", "open_transport"]
