"""One training example, where its tokens came from, and what a loss needs of it (protocol 2.3, 6.11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta

from tinkex_actors.errors import InputError
from tinkex_actors.types._record import Record, Tagged
from tinkex_actors.types.model_input import ModelInput
from tinkex_actors.types.tensor import TensorData, TensorDtype, is_csr

__all__ = ["Datum", "PromptProvenanceSpan", "ProvenanceSpans", "SampledProvenanceSpan", "check_datum"]

_LIST_DTYPES: Final[dict[str, TensorDtype]] = {
    "target_tokens": "int64",
    "weights": "float32",
    "advantages": "float32",
    "logprobs": "float32",
    "clip_low_threshold": "float32",
    "clip_high_threshold": "float32",
    "sequence_ratio_mask": "float32",
}

_TEXT: Final = frozenset({str})
_keep = msgspec.structs.force_setattr
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


class PromptProvenanceSpan(Tagged, frozen=True, kw_only=True, tag_field="type", tag="prompt_tokens"):
    """A run of tokens copied from the prompt of the request that sampled a sequence.

    Args:
        sequence_id: the sequence, as ``SampledSequence.sequence_id`` names it.
        length: how many tokens.
        offset: the first one's place in the prompt.
    """

    sequence_id: Annotated[str, Meta(min_length=1)]
    length: Annotated[int, Meta(ge=0)]
    offset: Annotated[int, Meta(ge=0)] = 0


class SampledProvenanceSpan(Tagged, frozen=True, kw_only=True, tag_field="type", tag="sampled_tokens"):
    """A run of tokens that were sampled in a sequence.

    Args:
        sequence_id: the sequence, as ``SampledSequence.sequence_id`` names it.
        length: how many tokens.
        offset: the first one's place in the sequence.
    """

    sequence_id: Annotated[str, Meta(min_length=1)]
    length: Annotated[int, Meta(ge=0)]
    offset: Annotated[int, Meta(ge=0)] = 0


ProvenanceSpans = list[PromptProvenanceSpan | SampledProvenanceSpan]


class Datum(Record, frozen=True):
    """One training example.

    Args:
        model_input: what the model reads, T tokens.
        loss_fn_inputs: what the loss reads, by name. Values may be ``TensorData``, arrays (numpy, JAX, CPU torch), or
            lists for the names whose dtype is fixed (``target_tokens`` int64; ``weights``, ``advantages``,
            ``logprobs``, ``clip_low_threshold``, ``clip_high_threshold``, ``sequence_ratio_mask`` float32).
            CSR matrices (scipy, torch, JAX's BCSR) stay sparse. They are kept as ``TensorData``.
        model_input_spans: where the tokens of ``model_input`` came from, in order; ``with_provenance`` checks them.
        loss_fn_input_spans: the same for the targets. Both or neither.

    Raises:
        InputError: ragged lists, a list under a name whose dtype is not fixed, values that are no numbers, or one
            list of spans without the other.
    """

    model_input: ModelInput
    loss_fn_inputs: dict[str, Any] = {}
    model_input_spans: ProvenanceSpans | None = None
    loss_fn_input_spans: ProvenanceSpans | None = None

    def __post_init__(self) -> None:
        given: object = self.loss_fn_inputs
        if type(given) is not dict and not isinstance(given, Mapping):
            raise InputError(f"Datum: loss_fn_inputs must map names to tensors, got {type(given).__name__}.")
        tensors = {name: value if type(value) is TensorData else _tensor(name, value) for name, value in given.items()}
        _keep(self, "loss_fn_inputs", tensors)
        no_spans = self.model_input_spans is None and self.loss_fn_input_spans is None
        if no_spans and type(self.model_input) is ModelInput and _TEXT.issuperset(map(type, tensors)):
            return  # nearly every datum: the general way says the same, and takes three times as long
        super().__post_init__()
        if (self.model_input_spans is None) != (self.loss_fn_input_spans is None):
            raise InputError(
                "Datum: model_input_spans and loss_fn_input_spans go together, got only one. Give both, or use "
                "with_provenance."
            )

    def with_provenance(self, *, model_input: ProvenanceSpans, loss_fn_inputs: ProvenanceSpans) -> Datum:
        """Return a copy that says where its tokens came from, which the loss ``stable_reinforce`` needs.

        Args:
            model_input: spans whose lengths add up to the tokens of ``model_input``.
            loss_fn_inputs: spans whose lengths add up to the length of 1-D ``target_tokens``.

        Raises:
            InputError: the lengths do not add up, or an image does not say how many tokens it takes.
        """
        copy = Datum(self.model_input, self.loss_fn_inputs, model_input, loss_fn_inputs)
        _check_spans("model_input", model_input, self.model_input.length)
        targets = self.loss_fn_inputs.get("target_tokens")
        if targets is not None and len(targets.shape) == 1:
            _check_spans("loss_fn_inputs", loss_fn_inputs, len(targets))
        return copy


def _check_spans(name: str, spans: ProvenanceSpans, tokens: int) -> None:
    covered = sum(span.length for span in spans)
    if covered != tokens:
        raise InputError(
            f"Datum.with_provenance: the spans of {name} cover {covered} tokens, expected {tokens}. Give every token "
            "one span, in order."
        )


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
        if is_csr(value):
            return TensorData.from_csr(value)
        if hasattr(value, "detach") and name in ("target_tokens", "weights") and value.ndim == 2:
            return TensorData.from_numpy_sparse(value)
        if hasattr(value, "__array__") or hasattr(value, "__dlpack__"):
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
