"""Samples from one set of weights: single, many, streamed, and in other processes."""

from tinkex_actors.clients.sampling.batch import SampleBatch, SampleItem
from tinkex_actors.clients.sampling.client import SamplingClient
from tinkex_actors.clients.sampling.handle import SamplerHandle

__all__ = ["SampleBatch", "SampleItem", "SamplerHandle", "SamplingClient"]
