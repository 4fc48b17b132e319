"""The way to a server: the :class:`Transport` protocol and its HTTP implementations."""

from tinkex_actors.transport.base import SampleSlots, TokenizerSource, Transport, open_transport
from tinkex_actors.transport.proxy import ProxyChallenge

__all__ = ["ProxyChallenge", "SampleSlots", "TokenizerSource", "Transport", "open_transport"]
