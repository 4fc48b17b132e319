"""The numeric core as the service calls it: API types in, API types out.

Runs on the compute thread, which also imports it, because that imports JAX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tinkex_actors.engine import checkpoints, core, exports
from tinkex_actors.engine.core.lora import LoraSpec
from tinkex_actors.engine.models.catalog import load_model
from tinkex_actors.errors import InputError
from tinkex_actors.types import (
    EncodedTextChunk,
    PromptAltTokens,
    SampledSequence,
    SampleResponse,
    TensorData,
    TopkLogprobs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from tinkex_actors.engine.service.state.jobs import SampleJob
    from tinkex_actors.tokenizers import Tokenizer
    from tinkex_actors.types import (
        AdamParams,
        CreateCustomLossRequest,
        Datum,
        LoraConfig,
        ModelInput,
        SampleRequest,
        SamplingParams,
    )

__all__ = ["Core"]

# Protocol 2.4: how an empty top-k cell is marked.
_EMPTY_TOKEN, _EMPTY_LOGPROB = 0, -99999.0

# No token of a byte-level vocabulary spells less than one byte, but a character may need four to come out right.
_UTF8_SLACK = 4


class Core:
    """A loaded base model and what can be done with it. Adapters are immutable values of the numeric core.

    Args:
        base: the model.
    """

    def __init__(self, base: core.BaseModel) -> None:
        self._base = base
        self._decoder = core.Decoder()
        self._drawings: dict[core.Drawing, SampleJob] = {}

    @classmethod
    def load(cls, name: str, cache_dir: Path) -> Core:
        """Load a model of the catalogue.

        Raises:
            ConfigError: no such model, or its weights are not on this machine.
        """
        return cls(load_model(name, cache_dir=cache_dir))

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._base.tokenizer

    # --- adapters --------------------------------------------------------------------------------------------------
    def new_adapter(self, lora: LoraConfig, seed: int) -> core.Adapter:
        """Return a fresh adapter."""
        return core.new_adapter(
            self._base,
            LoraSpec(
                rank=lora.rank,
                seed=seed,
                train_attn=lora.train_attn,
                train_mlp=lora.train_mlp,
                train_unembed=lora.train_unembed,
            ),
        )

    def save(self, folder: Path, adapter: core.Adapter, *, optimizer: bool) -> None:
        """Write an adapter's files."""
        checkpoints.save_checkpoint(folder, self._base, adapter, optimizer=optimizer)

    def export(
        self, folder: Path, adapter: core.Adapter, *, published_as: str | None, recipients: Sequence[str]
    ) -> None:
        """Write an adapter's files for other programs."""
        exports.export_adapter(folder, self._base, adapter, published_as=published_as, recipients=recipients)

    def load_checkpoint(self, folder: Path, *, optimizer: bool) -> core.Adapter:
        """Read an adapter; without ``optimizer`` its moments and step count start anew."""
        _, adapter, _ = checkpoints.load_checkpoint(folder, self._base)
        return adapter if optimizer else adapter.weights_only()

    def check_same_shape(self, current: core.Adapter, loaded: core.Adapter, path: str) -> None:
        """Refuse a checkpoint whose adapter has another shape than the model it shall go into.

        Raises:
            InputError: the two differ.
        """
        if current.spec.shape != loaded.spec.shape:
            raise InputError(
                f"{path}: its adapter is {_shape_text(loaded)}, the model's is {_shape_text(current)}. "
                "Create a model from the checkpoint instead (create_training_client_from_state)."
            )

    # --- training --------------------------------------------------------------------------------------------------
    def forward_backward(
        self,
        adapter: core.Adapter,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None,
        *,
        custom_losses: Mapping[str, core.GraphLoss],
        backward: bool,
        should_stop: Callable[[], bool],
    ) -> core.BatchResult:
        """Compute a loss over a batch and, with ``backward``, an adapter with its gradient added.

        The loss ``custom`` is one of ``custom_losses``, named by ``loss_id`` in its configuration.
        """
        examples = [
            core.Example(
                tokens=_tokens(datum.model_input, f"datum {index}: model_input"),
                inputs={name: tensor.to_numpy() for name, tensor in datum.loss_fn_inputs.items()},
            )
            for index, datum in enumerate(data)
        ]
        if loss_fn == "custom":
            loss = _custom_loss(loss_fn_config or {}, custom_losses)
            return core.custom_forward_backward(
                self._base, adapter, examples, loss, backward=backward, should_stop=should_stop
            )
        return core.forward_backward(
            self._base, adapter, examples, loss_fn, loss_fn_config, backward=backward, should_stop=should_stop
        )

    def graph_loss(self, request: CreateCustomLossRequest) -> core.GraphLoss:
        """Return an uploaded loss, checked.

        Raises:
            InputError: a graph that cannot be evaluated here.
        """
        return core.GraphLoss(request.name, request.inputs, request.graph)

    def optim_step(self, adapter: core.Adapter, params: AdamParams) -> tuple[core.Adapter, dict[str, float]]:
        """Take one AdamW step; return the new adapter and metrics."""
        return core.optim_step(adapter, core.AdamHyper(**msgspec.structs.asdict(params)))

    # --- sampling --------------------------------------------------------------------------------------------------
    def decode(self, admitted: Sequence[SampleJob]) -> None:
        """Take samples in, and decode a chunk of tokens for some of those that are in; mark the jobs that are over."""
        for job in admitted:
            if job.begin(self):
                self._drawings[job.drawing] = job
                self._decoder.add(job.drawing)
        for drawing in self._decoder.step():
            if drawing.over:
                self._drawings.pop(drawing).end(self)

    def drawing(
        self,
        adapter: core.Adapter | None,
        request: SampleRequest,
        seed: int,
        *,
        should_stop: Callable[[], bool],
    ) -> core.Drawing:
        """Return the answers that a request asks for, not yet drawn.

        One with a seed of its own is exact: equal requests then give equal bits whatever else runs.

        Raises:
            InputError: the prompt or a parameter cannot be used.
        """
        tokenizer = self._base.tokenizer
        params = core.DecodeParams(
            max_tokens=request.sampling_params.max_tokens,
            temperature=request.sampling_params.temperature,
            top_k=request.sampling_params.top_k,
            top_p=request.sampling_params.top_p,
            stop_token_ids=_stop_tokens(request.sampling_params, tokenizer),
            seed=seed,
        )
        return core.Drawing(
            self._base,
            adapter,
            _tokens(request.prompt, "prompt"),
            request.num_samples,
            params,
            exact=request.sampling_params.seed is not None,
            should_stop=should_stop,
            stop_check=_stop_check(request.sampling_params, tokenizer),
        )

    def response(
        self, drawing: core.Drawing, request: SampleRequest, seed: int, sequence_ids: Sequence[str]
    ) -> SampleResponse:
        """Return what a request is answered once its answers are drawn: those, and the scores that it asks for.

        Raises:
            Exception: why the answers were given up.
        """
        answers = drawing.result()
        adapter, prompt = drawing.adapter, drawing.prompt
        sequences = [
            SampledSequence(
                stop_reason=answer.stop_reason,
                sequence_id=sequence_id,
                tokens_np=answer.tokens,
                logprobs_np=answer.logprobs,
                topk_logprobs_np=self._topk_of(adapter, prompt, answer.tokens, request.topk_sample_logprobs),
            )
            for answer, sequence_id in zip(answers, sequence_ids, strict=True)
        ]
        logprobs, topk = self._score(adapter, prompt, request)
        return SampleResponse(
            sequences=sequences,
            prompt_logprobs_np=logprobs,
            topk_prompt_logprobs_np=topk,
            target_prompt_logprobs=self._targets(adapter, prompt, request.target_prompt_logprobs),
            prompt_alt_tokens=self._alternatives(adapter, prompt, request, seed),
        )

    def _topk_of(
        self, adapter: core.Adapter | None, prompt: npt.NDArray[np.int32], tokens: npt.NDArray[np.int32], k: int
    ) -> TopkLogprobs | None:
        """Return the likeliest tokens where an answer's own stand, or None where nobody asked."""
        if k == 0:
            return None
        found = core.topk_prompt(self._base, adapter, np.concatenate([prompt, tokens]), k, field="topk_sample_logprobs")
        return TopkLogprobs(found.token_ids[prompt.size :], found.logprobs[prompt.size :])

    def _targets(
        self, adapter: core.Adapter | None, prompt: npt.NDArray[np.int32], asked: TensorData | None
    ) -> TensorData | None:
        """Score chosen tokens; the answer has the request's layout, dense or CSR (protocol 7.8)."""
        if asked is None:
            return None
        if asked.dtype != "int64" or len(asked.shape or ()) != 2:
            raise InputError(
                f"target_prompt_logprobs: expected int64 [{prompt.size - 1}, K], got {asked.dtype} {asked.shape}."
            )
        dense = asked.to_numpy(pad_value=-1)
        found = core.target_logprobs(self._base, adapter, prompt, dense)
        if not asked.is_sparse:
            return TensorData.from_numpy(found)
        crow = np.asarray(asked.sparse_crow_indices)
        columns = np.asarray(asked.sparse_col_indices)
        rows = np.repeat(np.arange(len(crow) - 1), np.diff(crow))
        return TensorData(
            found[rows, columns],
            "float32",
            shape=asked.shape,
            sparse_crow_indices=asked.sparse_crow_indices,
            sparse_col_indices=asked.sparse_col_indices,
        )

    def _alternatives(
        self, adapter: core.Adapter | None, prompt: npt.NDArray[np.int32], request: SampleRequest, seed: int
    ) -> PromptAltTokens | None:
        k = request.prompt_alt_tokens_k
        if k == 0:
            return None
        temperature = request.sampling_params.temperature
        found = core.draw_alternatives(self._base, adapter, prompt, k, temperature=temperature, seed=seed)
        return PromptAltTokens(
            tokens=TensorData.from_numpy(found.token_ids.astype(np.int64)),
            logprobs=TensorData.from_numpy(found.logprobs),
        )

    def _score(
        self, adapter: core.Adapter | None, prompt: npt.NDArray[np.int32], request: SampleRequest
    ) -> tuple[npt.NDArray[np.float32] | None, TopkLogprobs | None]:
        logprobs, topk = None, None
        last_n = request.prompt_logprobs_last_n
        unscored = 0 if last_n is None else max(prompt.size - last_n, 0)
        if request.prompt_logprobs:
            logprobs = core.prompt_logprobs(self._base, adapter, prompt)
            logprobs[:unscored] = np.nan
        if request.topk_prompt_logprobs:
            found = core.topk_prompt(self._base, adapter, prompt, request.topk_prompt_logprobs)
            found.token_ids[:unscored] = _EMPTY_TOKEN
            found.logprobs[:unscored] = _EMPTY_LOGPROB
            topk = TopkLogprobs(found.token_ids, found.logprobs)
        return logprobs, topk


def _custom_loss(config: Mapping[str, float | str], known: Mapping[str, core.GraphLoss]) -> core.GraphLoss:
    loss_id = config.get("loss_id")
    if set(config) != {"loss_id"} or not isinstance(loss_id, str):
        raise InputError(
            f"loss_fn_config of custom: expected loss_id alone, got {dict(config)}; create_custom_loss gives it"
        )
    if loss_id not in known:
        raise InputError(
            f"loss_fn_config of custom: no loss {loss_id!r} in this session; it has "
            f"{', '.join(known) or 'none'}. Create it with create_custom_loss."
        )
    return known[loss_id]


def _tokens(given: ModelInput, where: str) -> npt.NDArray[np.int32]:
    for chunk in given.chunks:
        if not isinstance(chunk, EncodedTextChunk):
            raise InputError(f"{where}: this engine reads text only, got a {type(chunk).__name__}. Leave images out.")
    parts = [chunk.tokens_np for chunk in given.chunks if isinstance(chunk, EncodedTextChunk)]
    return np.concatenate([np.empty(0, np.int32), *parts])


def _stop_tokens(params: SamplingParams, tokenizer: Tokenizer) -> frozenset[int]:
    """Return the token ids that end an answer: the model's end token unless ``stop`` is given (protocol 2.4)."""
    if params.stop is None:
        return frozenset([tokenizer.eos_id])
    given: Sequence[Any] = [params.stop] if isinstance(params.stop, str) else params.stop
    return frozenset(stop for stop in given if isinstance(stop, int))


def _stop_check(params: SamplingParams, tokenizer: Tokenizer) -> Callable[[list[int]], bool] | None:
    """Return the test for stop strings, or None where there are none. It looks at the end of the answer only."""
    given: Sequence[Any] = [params.stop] if isinstance(params.stop, str) else params.stop or []
    strings = [stop for stop in given if isinstance(stop, str)]
    if any(not stop for stop in strings):
        raise InputError("sampling_params.stop: an empty string stops nothing. Leave it out.")
    if not strings:
        return None
    reach = max(len(stop.encode()) for stop in strings) + _UTF8_SLACK

    def stopped(tokens: list[int]) -> bool:
        tail = tokenizer.decode(tokens[-reach:])
        return any(stop in tail for stop in strings)

    return stopped


def _shape_text(adapter: core.Adapter) -> str:
    spec = adapter.spec
    parts = [name for name in ("attn", "mlp", "unembed") if getattr(spec, f"train_{name}")]
    return f"rank {spec.rank} on {', '.join(parts)}"
