"""A reader of GGUF, the file format of quantised models: metadata, and tensors as float32.

Format: the specification in the ggml repository (``docs/gguf.md``), versions 2 and 3, little-endian. Quantised types
hold blocks of 32 weights: Q4_0, Q4_1 and Q8_0 are read, besides plain F32 and F16.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import ConfigError

__all__ = ["GgufFile", "dequantize"]

_MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_F32, _F16, _Q4_0, _Q4_1, _Q8_0 = 0, 1, 2, 3, 8
_BLOCK = 32
_BLOCK_TYPES = {
    _Q4_0: np.dtype([("scale", "<f2"), ("codes", "u1", 16)]),
    _Q4_1: np.dtype([("scale", "<f2"), ("least", "<f2"), ("codes", "u1", 16)]),
    _Q8_0: np.dtype([("scale", "<f2"), ("codes", "i1", 32)]),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    shape: tuple[int, ...]
    kind: int
    offset: int


def dequantize(raw: bytes | memoryview, kind: int, count: int) -> npt.NDArray[np.float32]:
    """Return the weights that a tensor's bytes stand for: float32 ``[count]``.

    With a block's codes ``c``, scale ``d`` and least value ``m``: Q8_0 is ``c d``, Q4_0 ``(c - 8) d``, Q4_1
    ``c d + m``. Of 16 packed bytes the low halves are the first 16 codes, the high halves the last 16.

    Args:
        raw: the tensor's bytes, from its first on.
        kind: GGML's type number.
        count: number of weights; a multiple of 32 for the block types.

    Raises:
        ConfigError: a type that this reader does not know.
    """
    if kind == _F32:
        return np.frombuffer(raw, "<f4", count).astype(np.float32)
    if kind == _F16:
        return np.frombuffer(raw, "<f2", count).astype(np.float32)
    if kind not in _BLOCK_TYPES:
        raise ConfigError(f"gguf: tensor type {kind} is not supported; use a file of F32, F16, Q4_0, Q4_1 or Q8_0")
    blocks = np.frombuffer(raw, _BLOCK_TYPES[kind], count // _BLOCK)
    scale = blocks["scale"].astype(np.float32)[:, None]
    if kind == _Q8_0:
        return (blocks["codes"].astype(np.float32) * scale).reshape(-1)
    codes = np.empty((len(blocks), _BLOCK), np.float32)
    codes[:, :16] = blocks["codes"] & 15
    codes[:, 16:] = blocks["codes"] >> 4
    if kind == _Q4_0:
        codes -= 8
    codes *= scale
    if kind == _Q4_1:
        codes += blocks["least"].astype(np.float32)[:, None]
    return codes.reshape(-1)


class GgufFile:
    """An open GGUF file; also a context manager.

    Args:
        path: the file.

    Attributes:
        metadata: values by key: numbers, texts, lists of texts, or numpy arrays.

    Raises:
        ConfigError: not a GGUF file, a version this reader does not know, or one that is cut short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ConfigError(f"gguf {path}: cannot be read ({error}); check the path") from error
        if self._bytes[:4] != _MAGIC:
            raise ConfigError(f"gguf {path}: it does not begin with {_MAGIC!r}, so it is not a GGUF file")
        self._at = 4
        self.metadata: dict[str, Any] = {}
        self._entries: dict[str, _Entry] = {}
        try:
            self._read_header()
        except (struct.error, ValueError, KeyError, IndexError) as error:
            raise ConfigError(f"gguf {path}: its header is damaged ({error!r}); fetch the file again") from error

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. Tensors that were read stay valid: they are copies."""
        self._bytes.close()

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes by name, row-major: ``(out, in)`` for a linear map."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as float32 in its shape.

        Raises:
            ConfigError: there is none of that name, its type is not supported, or the file is cut short.
        """
        if name not in self._entries:
            raise ConfigError(f"gguf {self._path}: there is no tensor {name}; this is a file of another architecture")
        entry = self._entries[name]
        count = math.prod(entry.shape)
        try:
            with memoryview(self._bytes) as view, view[self._tensors_at + entry.offset :] as raw:
                return dequantize(raw, entry.kind, count).reshape(entry.shape)
        except ValueError as error:
            raise ConfigError(f"gguf {self._path}: tensor {name} is cut short; fetch the file again") from error

    def _read_header(self) -> None:
        version = self._scalar("I")
        if version not in (2, 3):
            raise ConfigError(f"gguf {self._path}: version {version}; this reader knows versions 2 and 3")
        tensor_count, key_count = self._scalar("Q"), self._scalar("Q")
        for _ in range(key_count):
            key = self._text()
            self.metadata[key] = self._value(self._scalar("I"))
        for _ in range(tensor_count):
            name = self._text()
            # Dimensions are stored fastest first.
            shape = tuple(reversed([self._scalar("Q") for _ in range(self._scalar("I"))]))
            self._entries[name] = _Entry(shape, self._scalar("I"), self._scalar("Q"))
        alignment = int(self.metadata.get("general.alignment", 32))
        self._tensors_at = -(-self._at // alignment) * alignment

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._scalar(_SCALARS[kind])
        inner, count = self._scalar("I"), self._scalar("Q")
        if inner in (_STRING, _ARRAY):
            return [self._value(inner) for _ in range(count)]
        values = np.frombuffer(self._bytes, np.dtype("<" + _SCALARS[inner]), count, self._at).copy()
        self._at += values.nbytes
        return values

    def _scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self._bytes, self._at)
        self._at += struct.calcsize("<" + code)
        return value

    def _text(self) -> str:
        size = self._scalar("Q")
        start, self._at = self._at, self._at + size
        return self._bytes[start : self._at].decode("utf-8")
