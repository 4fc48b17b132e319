"""The GGUF reader against bytes written out by hand, following the format's specification."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tinkex_actors.engine.models.gguf import GgufFile, dequantize
from tinkex_actors.errors import ConfigError

CODES = bytes(low | (high << 4) for low, high in zip(range(16), reversed(range(16)), strict=True))
ALL_CODES = np.array([*range(16), *reversed(range(16))], np.float32)


def half(value: float) -> bytes:
    return struct.pack("<e", value)


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf(keys: list[bytes], tensors: list[tuple[str, tuple[int, ...], int, bytes]], version: int = 3) -> bytes:
    """Lay out a file: header, keys, tensor entries, padding to 32, tensor bytes each padded to 32."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys)
    body = b""
    for name, shape, kind, raw in tensors:
        head += text(name) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", size) for size in reversed(shape))
        head += struct.pack("<IQ", kind, len(body))
        body += raw + bytes(-len(raw) % 32)
    return head + bytes(-len(head) % 32) + body


def write(folder: Path, content: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return path


def test_q4_1_takes_low_halves_first_and_adds_the_least_value() -> None:
    raw = half(0.5) + half(-1.25) + CODES
    np.testing.assert_array_equal(dequantize(raw, 3, 32), ALL_CODES * 0.5 - 1.25)


def test_q4_0_is_centred_on_eight() -> None:
    np.testing.assert_array_equal(dequantize(half(0.25) + CODES, 2, 32), (ALL_CODES - 8) * 0.25)


def test_q8_0_holds_signed_codes() -> None:
    codes = np.arange(-16, 16, dtype=np.int8)
    raw = half(2.0) + codes.tobytes() + half(-0.5) + codes.tobytes()
    expected = np.concatenate([codes * 2.0, codes * -0.5])
    np.testing.assert_array_equal(dequantize(raw, 8, 64), expected)


def test_plain_types_are_widened() -> None:
    values = np.array([1.5, -2.25, 0.0], np.float32)
    np.testing.assert_array_equal(dequantize(values.tobytes(), 0, 3), values)
    np.testing.assert_array_equal(dequantize(values.astype(np.float16).tobytes(), 1, 3), values)


def test_unknown_tensor_type_names_those_that_are_read() -> None:
    with pytest.raises(ConfigError, match=r"type 12 is not supported.*Q4_1"):
        dequantize(bytes(256), 12, 256)


def test_metadata_of_every_kind_and_tensors_by_name(tmp_path: Path) -> None:
    keys = [
        text("general.name") + struct.pack("<I", 8) + text("nürnberg"),
        text("count") + struct.pack("<Ii", 5, -7),
        text("ratio") + struct.pack("<Id", 12, 0.125),
        text("flag") + struct.pack("<I?", 7, True),
        text("words") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bb"),
        text("kinds") + struct.pack("<IIQ3i", 9, 5, 3, 1, 2, 3),
    ]
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    blocks = half(1.0) + half(0.0) + CODES
    path = write(tmp_path, gguf(keys, [("m", (2, 3), 0, matrix.tobytes()), ("q", (1, 32), 3, blocks)]))
    with GgufFile(path) as file:
        assert file.metadata["general.name"] == "nürnberg"
        assert (file.metadata["count"], file.metadata["ratio"], file.metadata["flag"]) == (-7, 0.125, True)
        assert file.metadata["words"] == ["a", "bb"]
        assert file.metadata["kinds"].tolist() == [1, 2, 3]
        assert file.tensors() == {"m": (2, 3), "q": (1, 32)}
        np.testing.assert_array_equal(file.read("m"), matrix)
        np.testing.assert_array_equal(file.read("q")[0], ALL_CODES)
        with pytest.raises(ConfigError, match="there is no tensor absent"):
            file.read("absent")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"GGML" + bytes(64), "does not begin with"),
        (b"", "cannot be read"),
        (gguf([], [], version=1), "version 1"),
        (gguf([text("k") + struct.pack("<I", 99)], []), "header is damaged"),
        (gguf([], [])[:10], "header is damaged"),
    ],
)
def test_files_that_are_not_gguf_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        GgufFile(write(tmp_path, content))


def test_a_tensor_cut_short_is_named(tmp_path: Path) -> None:
    content = gguf([], [("m", (64,), 0, bytes(256))])[:-100]
    with GgufFile(write(tmp_path, content)) as file, pytest.raises(ConfigError, match="tensor m is cut short"):
        file.read("m")
