"""What a model reads: a sequence of chunks of text tokens, images and audio (protocol 2.1)."""

from __future__ import annotations

import base64
import binascii
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from tinkex_actors.errors import InputError
from tinkex_actors.types._record import Record, Tagged
from tinkex_actors.types.tensor import as_array

__all__ = [
    "DmelChunk",
    "EncodedTextChunk",
    "ImageAssetPointerChunk",
    "ImageChunk",
    "ModelInput",
    "ModelInputChunk",
]

ImageFormat = Literal["png", "jpeg"]
_INT32: Final = np.dtype(np.int32)
_INT32_MAX: Final = 2**31 - 1

# The header of a serialized TensorContainer (protocol 2.1).
_CONSTANT_MARKER: Final = 254
_LAST_DTYPE: Final = 7
_VARINT_BITS: Final = 64

ExpectedTokens = Annotated[int, Meta(ge=0)]


class EncodedTextChunk(Tagged, frozen=True, kw_only=True, tag_field="type", tag="encoded_text", dict=True):
    """A run of text tokens.

    Args:
        tokens: token ids, each in ``0 .. 2**31 - 1``: a list, or any 1-D integer array (it becomes a list).

    Raises:
        InputError: for anything else.
    """

    tokens: list[int]

    def __post_init__(self) -> None:
        given: Any = self.tokens
        array = given if type(given) is np.ndarray else as_array(given)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise InputError(
                f"EncodedTextChunk: tokens must be a flat list of integers, got {array.dtype} of shape "
                f"{list(array.shape)}. Encode text with a tokenizer first."
            )
        narrow = array.dtype == _INT32
        if array.size and (array.min() < 0 or (not narrow and array.max() > _INT32_MAX)):
            raise InputError(
                f"EncodedTextChunk: token ids run from {array.min()} to {array.max()}; expected 0 to {_INT32_MAX}. "
                "Drop padding and ignore markers from the prompt."
            )
        if type(given) is not list:
            msgspec.structs.force_setattr(self, "tokens", array.tolist())
        # What cannot be written into needs no copy of its own.
        shared = narrow and not array.flags.writeable
        self.__dict__["tokens_np"] = array if shared else array.astype(_INT32)

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @cached_property
    def tokens_np(self) -> npt.NDArray[np.int32]:
        """The tokens, int32 ``[length]``. Shared: do not write into it."""
        return np.asarray(self.tokens, np.int32)


def _decode_base64(chunk: Record, name: str) -> None:
    given: Any = getattr(chunk, name)
    if isinstance(given, str):
        try:
            msgspec.structs.force_setattr(chunk, name, base64.b64decode(given, validate=True))
        except (binascii.Error, ValueError) as error:
            raise InputError(
                f"{type(chunk).__name__}: {name} is a string but not base64 ({error}). Pass bytes."
            ) from error


def _image_length(name: str, expected_tokens: int | None) -> int:
    if expected_tokens is None:
        raise InputError(f"{name}: its length is unknown because expected_tokens is not set. Pass expected_tokens=.")
    return expected_tokens


class ImageChunk(Tagged, frozen=True, kw_only=True, tag_field="type", tag="image"):
    """An image, inline.

    Args:
        data: the encoded file's bytes; a base64 string is decoded.
        format: ``"png"`` or ``"jpeg"``.
        expected_tokens: how many tokens the image should take; advisory, the server counts itself.
    """

    data: bytes
    format: ImageFormat
    expected_tokens: ExpectedTokens | None = None

    def __post_init__(self) -> None:
        _decode_base64(self, "data")
        super().__post_init__()

    @property
    def length(self) -> int:
        """Number of tokens, as promised by ``expected_tokens``; InputError when that is not set."""
        return _image_length("ImageChunk", self.expected_tokens)

    def __repr__(self) -> str:
        return f"ImageChunk(<{len(self.data)} bytes>, format={self.format!r}, expected_tokens={self.expected_tokens})"


class ImageAssetPointerChunk(Tagged, frozen=True, kw_only=True, tag_field="type", tag="image_asset_pointer"):
    """An image that the server already has. Sampling only: training has no form for it (protocol 2.1).

    Args:
        location: the server's name for the image.
        format: ``"png"`` or ``"jpeg"``.
        expected_tokens: as in ``ImageChunk``.
    """

    location: str
    format: ImageFormat
    expected_tokens: ExpectedTokens | None = None

    @property
    def length(self) -> int:
        """Number of tokens, as promised by ``expected_tokens``; InputError when that is not set."""
        return _image_length("ImageAssetPointerChunk", self.expected_tokens)


class DmelChunk(Tagged, frozen=True, kw_only=True, tag_field="type", tag="dmel"):
    """Audio, as a serialized tensor of mel tokens.

    Args:
        dmel: the bytes of a serialized TensorContainer; a base64 string is decoded. Only its header is read here.
    """

    dmel: bytes

    def __post_init__(self) -> None:
        _decode_base64(self, "dmel")
        super().__post_init__()

    @property
    def shape(self) -> list[int]:
        """The tensor's shape, read from the header; InputError when the bytes have none."""
        return _container_shape(self.dmel)

    @property
    def length(self) -> int:
        """Number of tokens: the first dimension; InputError when the header has none."""
        shape = self.shape
        if not shape:
            raise InputError("DmelChunk: the tensor has no dimensions, so no length. Pass one of shape [tokens, ...].")
        return shape[0]


def _container_shape(container: bytes) -> list[int]:
    """Read the shape: an optional marker, a dtype byte, then rank and dimensions as unsigned LEB128 numbers."""
    at = 1 if container[:1] == bytes([_CONSTANT_MARKER]) else 0
    if at >= len(container):
        raise InputError("DmelChunk: the bytes end before the tensor's header. Pass a serialized TensorContainer.")
    if container[at] > _LAST_DTYPE:
        raise InputError(
            f"DmelChunk: dtype byte {container[at]} is not in 0..{_LAST_DTYPE}; this is no TensorContainer."
        )
    rank, at = _varint(container, at + 1)
    shape: list[int] = []
    for _ in range(rank):
        size, at = _varint(container, at)
        shape.append(size)
    return shape


def _varint(container: bytes, at: int) -> tuple[int, int]:
    """Return the number that starts at ``at`` and the place after it."""
    value = 0
    for shift in range(0, _VARINT_BITS, 7):
        if at >= len(container):
            raise InputError("DmelChunk: the bytes end inside the tensor's header. Pass the whole TensorContainer.")
        byte = container[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise InputError("DmelChunk: a number in the tensor's header runs past 64 bits; this is no TensorContainer.")


ModelInputChunk = EncodedTextChunk | ImageChunk | ImageAssetPointerChunk | DmelChunk


class ModelInput(Record, frozen=True, kw_only=True):
    """A prompt or a training sequence: chunks in order.

    Args:
        chunks: the parts; ``ModelInput.from_ints`` makes the usual one-part input.
    """

    _made_by: ClassVar[str] = "ModelInput.from_ints"

    chunks: list[ModelInputChunk]

    def __post_init__(self) -> None:
        chunks: object = self.chunks
        if not (type(chunks) is list and len(chunks) == 1 and type(chunks[0]) is EncodedTextChunk):
            super().__post_init__()

    @classmethod
    def from_ints(cls, tokens: Any) -> ModelInput:
        """Return an input of one text chunk.

        Args:
            tokens: token ids: a list or a 1-D integer array.
        """
        return cls(chunks=[EncodedTextChunk(tokens=tokens)])

    @classmethod
    def empty(cls) -> ModelInput:
        """Return an input of no chunks."""
        return cls(chunks=[])

    @property
    def length(self) -> int:
        """Number of tokens over all chunks; InputError if an image does not say how many it takes."""
        return sum(chunk.length for chunk in self.chunks)

    def to_ints(self) -> list[int]:
        """Return the token ids; InputError if a chunk is not text."""
        tokens: list[int] = []
        for chunk in self.chunks:
            if not isinstance(chunk, EncodedTextChunk):
                raise InputError(f"ModelInput.to_ints: a {type(chunk).__name__} has no token ids; only text has.")
            tokens.extend(chunk.tokens)
        return tokens

    def append(self, chunk: ModelInputChunk) -> ModelInput:
        """Return a new input with one more chunk."""
        return ModelInput(chunks=[*self.chunks, chunk])

    def append_int(self, token: int) -> ModelInput:
        """Return a new input with one more token, joined to the last chunk if that is text."""
        if self.chunks and isinstance(last := self.chunks[-1], EncodedTextChunk):
            return ModelInput(chunks=[*self.chunks[:-1], EncodedTextChunk(tokens=[*last.tokens, token])])
        return self.append(EncodedTextChunk(tokens=[token]))
