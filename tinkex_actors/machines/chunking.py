"""Cutting a batch into requests that the server takes (protocol 6.4).

Rules: order is kept; a chunk is closed before the item that would make it exceed ``max_bytes`` or ``max_items``; an
item larger than ``max_bytes`` travels alone; no chunk is empty. Sizes are estimates of the encoded request.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from tinkex_actors.errors import ConfigError
from tinkex_actors.types import Datum, DmelChunk, EncodedTextChunk, ImageChunk, ModelInput, TensorData

__all__ = ["ChunkLimits", "estimate_bytes", "estimate_prompt_bytes", "split"]

_TRAINING_TOKEN_BYTES = 4  # protobuf packs int32
_SAMPLING_TOKEN_BYTES = 10  # JSON digits and a comma


class ChunkLimits(Struct, frozen=True):
    """How large one chunk may be.

    Args:
        max_items: items in a chunk, at least 1.
        max_bytes: estimated bytes in a chunk, at least 1; the server's ``fwdbwd_max_chunk_bytes_count``.

    Raises:
        ConfigError: a limit is below 1.
    """

    max_items: int = 1024
    max_bytes: int = 5_000_000

    def __post_init__(self) -> None:
        for name in ("max_items", "max_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"ChunkLimits.{name} must be at least 1, got {getattr(self, name)!r}")


def split(sizes_bytes: Sequence[int], limits: ChunkLimits) -> list[range]:
    """Cut a sequence of items into chunks.

    Args:
        sizes_bytes: the estimated size of each item, in order.
        limits: how large a chunk may be.

    Returns:
        The items of each chunk as a range of indexes; together they are ``range(len(sizes_bytes))``. No items, no
        chunk.

    Raises:
        ValueError: a size is negative.
    """
    chunks: list[range] = []
    start = chunk_bytes = 0
    for index, size in enumerate(sizes_bytes):
        if size < 0:
            raise ValueError(f"item {index}: expected a size of 0 bytes or more, got {size}")
        count = index - start
        if count and (count >= limits.max_items or chunk_bytes + size > limits.max_bytes):
            chunks.append(range(start, index))
            start, chunk_bytes = index, 0
        chunk_bytes += size
    if start < len(sizes_bytes):
        chunks.append(range(start, len(sizes_bytes)))
    return chunks


def estimate_bytes(datum: Datum) -> int:
    """Return the estimated size of a training example in a request: 4 bytes a token, tensors as they are in memory."""
    tensors: dict[str, TensorData] = datum.loss_fn_inputs
    total = _input_bytes(datum.model_input, _TRAINING_TOKEN_BYTES)
    for tensor in tensors.values():
        total += tensor.size_bytes
    return total


def estimate_prompt_bytes(model_input: ModelInput) -> int:
    """Return the estimated size of a sampling prompt in a request: 10 bytes a token."""
    return _input_bytes(model_input, _SAMPLING_TOKEN_BYTES)


def _input_bytes(model_input: ModelInput, token_bytes: int) -> int:
    total = 0
    for chunk in model_input.chunks:
        if isinstance(chunk, EncodedTextChunk):
            total += token_bytes * chunk.length
        elif isinstance(chunk, ImageChunk):
            total += len(chunk.data)
        elif isinstance(chunk, DmelChunk):
            total += len(chunk.dmel)
        else:
            total += len(chunk.location)
    return total
