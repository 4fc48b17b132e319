"""Examples, their checks, and the fixed plan that packs them into padded microbatches.

The plan is a pure function of the request: the same examples give the same shapes in the same order, whatever else
runs. That is what makes training bit-reproducible, since the last bits of a sum depend on the shape of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.architecture import ModelConfig
from tinkex_actors.engine.core.objectives import Loss, Signals
from tinkex_actors.errors import InputError

__all__ = [
    "LENGTH_BUCKETS",
    "MICROBATCH_TOKENS",
    "Example",
    "Microbatch",
    "check_examples",
    "check_tokens",
    "length_bucket",
    "pack",
    "plan",
    "shared_prefix",
]

MICROBATCH_TOKENS = 512
"""Tokens of one microbatch, padding included; a longer row is one of its own. Keeps scratch memory near 1 GB."""

LENGTH_BUCKETS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Row lengths that are compiled; a row is padded to the next one. Each new shape costs a second of compilation."""

_PREFIX_BUCKETS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
# Behind a shared prefix rows are often short: the answers to one prompt.
_OWN_BUCKETS = (16, 24, *LENGTH_BUCKETS)
# A shared prefix is one more compiled shape, so it has to leave out a fifth of the work.
_WORTH_SHARING = 0.8
_MAX_ROWS = 8
_KNOWN_INPUTS = frozenset(
    {
        "target_tokens",
        "weights",
        "logprobs",
        "advantages",
        "clip_low_threshold",
        "clip_high_threshold",
        "sequence_ratio_mask",
    }
)


@dataclass(frozen=True, slots=True)
class Example:
    """One datum, as arrays.

    Args:
        tokens: int32 ``[T]``, what the model reads.
        inputs: arrays by name: ``target_tokens`` int64 ``[T]`` (or ``[T, K]`` for cross_entropy), and ``weights``,
            ``logprobs``, ``advantages``, ``clip_low_threshold``, ``clip_high_threshold``, float32 of the same shape.
            Names of the API that the chosen loss does not read are allowed and ignored.
    """

    tokens: npt.NDArray[np.int32]
    inputs: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)


class Microbatch(NamedTuple):
    """Arrays of one compiled call: tokens int32 ``[B, T]``, targets int32 ``[B, T, K]``, and the loss's signals."""

    tokens: jax.Array
    targets: jax.Array
    signals: Signals


def length_bucket(length: int) -> int:
    """Return the compiled row length for a row of ``length`` tokens.

    Raises:
        InputError: no bucket is that long.
    """
    return _bucket(length, LENGTH_BUCKETS)


def _bucket(length: int, buckets: Sequence[int]) -> int:
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise InputError(
        f"{length} tokens are too many: the engine processes at most {LENGTH_BUCKETS[-1]}; shorten the input"
    )


def check_tokens(tokens: npt.NDArray[np.integer], config: ModelConfig, where: str) -> None:
    """Check that tokens are one non-empty row of ids of this model, not too long.

    Args:
        tokens: integers ``[T]``.
        config: the model's shape.
        where: how the message names the object, such as ``datum 3``.

    Raises:
        InputError: otherwise.
    """
    if tokens.ndim != 1 or tokens.size == 0:
        raise InputError(f"{where}: expected a non-empty row of tokens, got an array of shape {list(tokens.shape)}")
    if tokens.size > config.context_length:
        raise InputError(
            f"{where}: {tokens.size} tokens, but the model takes at most {config.context_length}; shorten it"
        )
    _check_ids(tokens, config.vocab, where, "token")


def check_examples(examples: Sequence[Example], loss: Loss, config: ModelConfig) -> None:
    """Check every example against the loss and the model before anything runs.

    Raises:
        InputError: no examples, or one that cannot be used; the message names the datum, the field and the value.
    """
    if not examples:
        raise InputError("no data: forward and forward_backward need at least one datum")
    for index, example in enumerate(examples):
        where = f"datum {index}"
        check_tokens(example.tokens, config, where)
        targets = _targets(example, loss, where)
        _check_ids(targets, config.vocab, where, "target_tokens")
        unknown = sorted(set(example.inputs) - _KNOWN_INPUTS)
        if unknown:
            raise InputError(f"{where}: unknown loss_fn_inputs {unknown}; known are {sorted(_KNOWN_INPUTS)}")
        for name in loss.required:
            if name not in example.inputs:
                raise InputError(f"{where}: loss_fn_inputs[{name!r}] is missing; {loss.name} needs it for every target")
        for name, values in example.inputs.items():
            _check_signal(values, targets.shape, f"{where}: loss_fn_inputs[{name!r}]")


def plan(examples: Sequence[Example]) -> list[list[int]]:
    """Return the microbatches as lists of indices: longest rows first, as many to a microbatch as its budget allows.

    Rows of neighbouring buckets share a microbatch, since one more padded row costs less than one more compiled shape.
    """
    longest_first = sorted(range(len(examples)), key=lambda index: -examples[index].tokens.size)
    batches = []
    while longest_first:
        length = length_bucket(examples[longest_first[0]].tokens.size)
        rows = min(_MAX_ROWS, max(1, MICROBATCH_TOKENS // length))
        batches.append(longest_first[:rows])
        longest_first = longest_first[rows:]
    return batches


def shared_prefix(examples: Sequence[Example]) -> int:
    """Return how many tokens at the start of every row are run once for all rows; 0 where that gains too little.

    Rows of one microbatch often begin alike: a system message, or the one prompt that a group of samples answers.

    Args:
        examples: those of one microbatch of ``plan``.
    """
    sizes = [example.tokens.size for example in examples]
    # Every row keeps a token of its own, so that the last prediction is never the prefix's.
    common = min(sizes) - 1
    first = examples[0].tokens
    for example in examples[1:]:
        different = np.flatnonzero(first[:common] != example.tokens[:common])
        common = int(different[0]) if different.size else common
    shared = max((bucket for bucket in _PREFIX_BUCKETS if bucket <= common), default=0)
    rows = len(examples)
    plain = rows * length_bucket(max(sizes))
    return shared if shared + rows * _bucket(max(sizes) - shared, _OWN_BUCKETS) <= _WORTH_SHARING * plain else 0


def pack(examples: Sequence[Example], settings: Mapping[str, float], shared: int = 0) -> Microbatch:
    """Pad examples of one microbatch to its compiled shape: the length bucket, and a power of two of rows.

    Args:
        examples: those of one microbatch of ``plan``.
        settings: the loss's configuration (its clip thresholds fill those that a datum does not give).
        shared: tokens at the start of the rows that are run once; the bucket is of what follows them.
    """
    longest = max(example.tokens.size for example in examples)
    length = shared + _bucket(longest - shared, _OWN_BUCKETS) if shared else length_bucket(longest)
    choices = max(_choices(example) for example in examples)
    rows = 1 << (len(examples) - 1).bit_length()
    shape = (rows, length, choices)
    tokens = np.zeros(shape[:2], np.int32)
    targets = np.zeros(shape, np.int32)
    signals = {name: np.zeros(shape, np.float32) for name in Signals._fields}
    for row, example in enumerate(examples):
        size = example.tokens.size
        tokens[row, :size] = example.tokens
        given = np.asarray(example.inputs["target_tokens"]).reshape(size, -1)
        cell = (row, slice(size), slice(given.shape[1]))
        targets[cell] = given
        for name, array in signals.items():
            array[cell] = _signal(example, name, given.shape, settings)
    arrays = {name: jnp.asarray(array) for name, array in signals.items()}
    return Microbatch(jnp.asarray(tokens), jnp.asarray(targets), Signals(**arrays))


_SIGNAL_INPUTS = {
    "clip_low": "clip_low_threshold",
    "clip_high": "clip_high_threshold",
    "ratio_mask": "sequence_ratio_mask",
}


def _signal(
    example: Example, name: str, shape: tuple[int, ...], settings: Mapping[str, float]
) -> npt.NDArray[np.float32] | float:
    key = _SIGNAL_INPUTS.get(name, name)
    if key in example.inputs:
        return np.asarray(example.inputs[key], np.float32).reshape(shape)
    # Without weights every target counts once; without the others the loss does not read them.
    return 1.0 if key == "weights" else settings.get(key, 0.0)


def _targets(example: Example, loss: Loss, where: str) -> npt.NDArray[np.integer]:
    if "target_tokens" not in example.inputs:
        raise InputError(f"{where}: loss_fn_inputs['target_tokens'] is missing; every loss needs one target per token")
    targets = np.asarray(example.inputs["target_tokens"])
    expected = example.tokens.size
    dense = targets.ndim == 1 or (targets.ndim == 2 and targets.shape[1] > 0 and loss.name == "cross_entropy")
    if not dense or targets.shape[0] != expected:
        shapes = f"[{expected}] or [{expected}, K]" if loss.name == "cross_entropy" else f"[{expected}]"
        raise InputError(
            f"{where}: target_tokens has shape {list(targets.shape)}, but with {expected} input tokens {loss.name} "
            f"takes {shapes}; give one target per input token"
        )
    if targets.dtype.kind != "i":
        raise InputError(f"{where}: target_tokens has dtype {targets.dtype}; expected int64")
    return targets


def _check_signal(values: npt.NDArray[np.generic], shape: tuple[int, ...], where: str) -> None:
    if values.shape != shape:
        raise InputError(
            f"{where} has shape {list(values.shape)}, but target_tokens has {list(shape)}; make them equal"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise InputError(f"{where} is {values[at]} at {list(at)}; every value must be finite")


def _check_ids(ids: npt.NDArray[np.integer], vocab: int, where: str, what: str) -> None:
    bad = np.argwhere((ids < 0) | (ids >= vocab))
    if bad.size:
        at = tuple(int(i) for i in bad[0])
        raise InputError(
            f"{where}: {what} at {list(at)} is {int(ids[at])}; this model's ids are 0 to {vocab - 1}: "
            "was it made with another model's tokenizer?"
        )


def _choices(example: Example) -> int:
    targets = np.asarray(example.inputs["target_tokens"])
    width = targets.shape[1] if targets.ndim == 2 else 1
    return 1 << (width - 1).bit_length()
