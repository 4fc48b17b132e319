"""The way to a server: the :class:`Transport` protocol and its HTTP implementations."""

from tinkex_actors.transport.base import SampleSlots, Streaming, TokenizerSource, Transport, open_transport
from tinkex_actors.transport.proxy import ProxyChallenge

__all__ = ["ProxyChallenge", "SampleSlots", "Streaming", "TokenizerSource", "Transport", "open_transport"]
