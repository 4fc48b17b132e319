"""The ways of speaking Tinker, as plain data: two to start from, and the switches that discovery sets on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

__all__ = ["HOSTED", "JSON", "Dialect"]


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """What a server understands. A changed one is a new one: ``msgspec.structs.replace`` or ``without``.

    Args:
        name: ``hosted`` or ``json``, the dialect it began as.
        protobuf: training requests, and the results of training and sampling, travel as protobuf (protocol 3.1).
        forward_only_in_forward_backward: ``forward`` is a flag of ``forward_backward``; else it has its own route.
        metadata_only: ``retrieve_future`` may answer a result's size first (protocol 4.2).
        sample_sequence_ids: the promise of a sample names its sequences (protocol 1.7.21).
        create_by_load: ``load_weights`` without ``model_id`` creates the model; else it is created, then loaded.
        minimal: leave out fields that hold their default, for servers that refuse fields they do not know. What every
            version of the protocol has had, and servers have defaults of their own for, is sent all the same: an
            AdamW step's rates, a sample's temperature, ``top_k`` and ``top_p``. Applies to JSON bodies.
        stop_as_list: a lone ``stop`` string is sent as a list of one.
        max_tokens: sent as a sample's ``max_tokens`` where the caller gave none; None leaves the field out.
        dropped: fields never sent, as pairs of route name and dotted path in the body, such as
            ``("asample", "sampling_params.seed")``; positions in lists are left out of the path. Applies to JSON
            bodies.
    """

    name: str
    protobuf: bool
    forward_only_in_forward_backward: bool
    metadata_only: bool
    sample_sequence_ids: bool
    create_by_load: bool
    minimal: bool = False
    stop_as_list: bool = False
    max_tokens: int | None = None
    dropped: frozenset[tuple[str, str]] = frozenset()

    def without(self, route: str, fields: Iterable[str]) -> Dialect:
        """Return this dialect, no longer sending ``fields`` (dotted paths) on the route of that name."""
        return msgspec.structs.replace(self, dropped=self.dropped | {(route, field) for field in fields})


HOSTED: Final = Dialect(
    name="hosted",
    protobuf=True,
    forward_only_in_forward_backward=True,
    metadata_only=True,
    sample_sequence_ids=True,
    create_by_load=True,
)

# Protocol appendix B.
JSON: Final = Dialect(
    name="json",
    protobuf=False,
    forward_only_in_forward_backward=False,
    metadata_only=False,
    sample_sequence_ids=False,
    create_by_load=False,
)
