"""One training example, and what a loss needs of it (protocol 2.3, 6.11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from tinkex_actors.errors import InputError
from tinkex_actors.types.model_input import ModelInput
from tinkex_actors.types.tensor import TensorData, TensorDtype

__all__ = ["Datum", "check_datum"]

_LIST_DTYPES: Final[dict[str, TensorDtype]] = {
    "target_tokens": "int64",
    "weights": "float32",
    "advantages": "float32",
    "logprobs": "float32",
    "clip_low_threshold": "float32",
    "clip_high_threshold": "float32",
    "sequence_ratio_mask": "float32",
}

_POLICY_INPUTS: Final = ("target_tokens", "logprobs", "advantages")
_REQUIRED_INPUTS: Final[dict[str, tuple[str, ...]]] = {
    "cross_entropy": ("target_tokens",),
    "importance_sampling": _POLICY_INPUTS,
    "ppo": _POLICY_INPUTS,
    "cispo": _POLICY_INPUTS,
    "dro": _POLICY_INPUTS,
    "gspo": (*_POLICY_INPUTS, "sequence_ratio_mask"),
}

_HINTS: Final[dict[str, str]] = {
    "target_tokens": "Add the tokens to predict, the prompt's shifted left by one",
    "logprobs": "Add the log probabilities that the sampler gave its tokens",
    "advantages": "Add one advantage for each token",
    "sequence_ratio_mask": "Add 1.0 for each sampled token and 0.0 for each prompt token",
}


class Datum(msgspec.Struct, frozen=True):
    """One training example.

    Args:
        model_input: what the model reads, T tokens.
        loss_fn_inputs: what the loss reads, by name. Values may be ``TensorData``, arrays (numpy, JAX, CPU torch), or
            lists for the names whose dtype is fixed (``target_tokens`` int64; ``weights``, ``advantages``,
            ``logprobs``, ``clip_low_threshold``, ``clip_high_threshold``, ``sequence_ratio_mask`` float32).
            They are kept as ``TensorData``.

    Raises:
        InputError: ragged lists, a list under a name whose dtype is not fixed, or values that are no numbers.
    """

    model_input: ModelInput
    loss_fn_inputs: dict[str, Any] = {}

    def __post_init__(self) -> None:
        given: object = self.loss_fn_inputs
        if not isinstance(given, Mapping):
            raise InputError(f"Datum: loss_fn_inputs must map names to tensors, got {type(given).__name__}.")
        tensors = {name: _tensor(name, value) for name, value in given.items()}
        msgspec.structs.force_setattr(self, "loss_fn_inputs", tensors)


def _tensor(name: str, value: Any) -> TensorData:
    if isinstance(value, TensorData):
        return value
    try:
        if isinstance(value, Mapping):
            return TensorData(**value)
        if isinstance(value, (list, tuple)):
            dtype = _LIST_DTYPES.get(name)
            if dtype is None:
                raise InputError(
                    f"a list has no dtype of its own and the name is not one of {', '.join(_LIST_DTYPES)}. "
                    "Pass a numpy array or a TensorData"
                )
            return TensorData(value, dtype)
        if hasattr(value, "detach") and name in ("target_tokens", "weights") and value.ndim == 2:
            return TensorData.from_numpy_sparse(value)
        if hasattr(value, "__array__"):
            return TensorData.from_numpy(value)
    except (InputError, TypeError) as error:
        raise InputError(f"Datum: loss_fn_inputs[{name!r}]: {error}") from error
    raise InputError(
        f"Datum: loss_fn_inputs[{name!r}] is a {type(value).__name__}; expected a list, an array or a TensorData."
    )


def check_datum(datum: Datum, loss_fn: str, index: int = 0) -> None:
    """Refuse a datum that no server could train on with this loss.

    Checked: the inputs the loss needs are there (protocol 6.11; losses not listed there are not checked), and each
    has one row for each of the datum's T tokens where T is known.

    Args:
        datum: the example.
        loss_fn: the loss's name, such as ``"cross_entropy"``.
        index: the datum's place in the batch, for the message.

    Raises:
        InputError: naming the datum, the field, what was expected, what came, and the remedy.
    """
    required = _REQUIRED_INPUTS.get(loss_fn, ())
    for name in required:
        if name not in datum.loss_fn_inputs:
            given = ", ".join(sorted(datum.loss_fn_inputs)) or "nothing"
            raise InputError(
                f"datum {index}: loss_fn_inputs[{name!r}] is missing; loss {loss_fn!r} expects "
                f"{', '.join(required)}, got {given}. {_HINTS[name]}."
            )
    tokens = _known_length(datum.model_input)
    for name in dict.fromkeys((*required, "weights")):
        if name not in datum.loss_fn_inputs:
            continue
        rows = len(datum.loss_fn_inputs[name])
        if tokens is not None and rows != tokens:
            raise InputError(
                f"datum {index}: loss_fn_inputs[{name!r}] has {rows} entries, expected {tokens}, one for each token "
                "of model_input. Cut or pad it to the input's length."
            )
    targets = datum.loss_fn_inputs.get("target_tokens")
    if targets is not None and required and targets.values_np.dtype != np.int64:
        raise InputError(
            f"datum {index}: loss_fn_inputs['target_tokens'] is {targets.dtype}, expected int64 token ids. "
            "Convert it with .astype('int64')."
        )


def _known_length(model_input: ModelInput) -> int | None:
    total = 0
    for chunk in model_input.chunks:
        tokens = getattr(chunk, "tokens", None)
        if tokens is None:
            # An image's length is the server's to say.
            return None
        total += len(tokens)
    return total
