"""The way to a server: the :class:`Transport` protocol and its HTTP implementation."""

from tinkex_actors.transport.base import SampleSlots, TokenizerSource, Transport, open_transport

__all__ = ["SampleSlots", "TokenizerSource", "Transport", "open_transport"]
