"""The two ways of speaking Tinker: the hosted service's of today, and the JSON one of older and independent servers."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["HOSTED", "JSON", "Dialect"]


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """What a server understands.

    Args:
        name: ``hosted`` or ``json``.
        protobuf: training requests, and the results of training and sampling, travel as protobuf (protocol 3.1).
        forward_only_in_forward_backward: ``forward`` is a flag of ``forward_backward``; else it has its own route.
        metadata_only: ``retrieve_future`` may answer a result's size first (protocol 4.2).
        sample_sequence_ids: the promise of a sample names its sequences (protocol 1.7.21).
    """

    name: str
    protobuf: bool
    forward_only_in_forward_backward: bool
    metadata_only: bool
    sample_sequence_ids: bool


HOSTED: Final = Dialect(
    name="hosted",
    protobuf=True,
    forward_only_in_forward_backward=True,
    metadata_only=True,
    sample_sequence_ids=True,
)

# Protocol appendix B.
JSON: Final = Dialect(
    name="json",
    protobuf=False,
    forward_only_in_forward_backward=False,
    metadata_only=False,
    sample_sequence_ids=False,
)
