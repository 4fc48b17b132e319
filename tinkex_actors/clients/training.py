"""One model in training."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tinkex_actors.actors.attribution import attributed
from tinkex_actors.actors.sequencer import Chunk
from tinkex_actors.clients.paths import checkpoint_path
from tinkex_actors.clients.tokenizer import load_tokenizer
from tinkex_actors.errors import ClosedError, InputError, RemoteWireError, TokenizerNotLoadedError
from tinkex_actors.machines.chunking import ChunkLimits, estimate_bytes, split
from tinkex_actors.machines.combining import combine
from tinkex_actors.types import (
    AdamParams,
    Datum,
    DimuonParams,
    ForwardBackwardInput,
    ForwardBackwardOutput,
    ForwardBackwardRequest,
    GetInfoResponse,
    ImageAssetPointerChunk,
    LoadWeightsRequest,
    LoadWeightsResponse,
    OptimStepRequest,
    OptimStepResponse,
    SaveWeightsExternalRequest,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerRequest,
    SaveWeightsForSamplerResponse,
    SaveWeightsRequest,
    SaveWeightsResponse,
    UnloadModelRequest,
    UnloadModelResponse,
    check_datum,
)
from tinkex_actors.wire.client import encode_request
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.sequencer import SequencerDesk
    from tinkex_actors.clients.backbone import Backbone
    from tinkex_actors.clients.custom_loss import CustomLoss
    from tinkex_actors.clients.sampling import SamplingClient
    from tinkex_actors.config import RetryConfig
    from tinkex_actors.tokenizers import Tokenizer
    from tinkex_actors.types import OptimParams, SamplingClientKind

__all__ = ["TrainingClient"]


@attributed
class TrainingClient:
    """Trains one model's adapter. Made by :class:`~tinkex_actors.ServiceClient`.

    Every method returns at once; its number in the model's order is taken at the call, so calls take effect in call
    order whether or not you await between them. Cancelling an awaiter changes nothing on the server.

    Attributes:
        model_id: the server's name for the model.
        base_model: what is adapted.
    """

    def __init__(
        self,
        core: Backbone,
        desk: SequencerDesk,
        info: GetInfoResponse,
        *,
        base_model: str,
        tokenizer: Tokenizer | None,
    ) -> None:
        self._core = core
        self._desk = desk
        self._info = info
        self._tokenizer = tokenizer
        self._unloaded = False
        self.model_id = desk.model_id
        self.base_model = base_model

    def forward(
        self, data: Iterable[Datum], loss_fn: str, loss_fn_config: Mapping[str, float | str] | None = None
    ) -> ApiFuture[ForwardBackwardOutput]:
        """Compute the loss and its outputs, and no gradient. Arguments and errors as :meth:`forward_backward`."""
        return self._batch("forward", data, loss_fn, loss_fn_config)

    def forward_backward(
        self, data: Iterable[Datum], loss_fn: str, loss_fn_config: Mapping[str, float | str] | None = None
    ) -> ApiFuture[ForwardBackwardOutput]:
        """Compute the loss and add its gradient to the model's accumulator.

        Large batches travel in chunks, and their results are combined: outputs in order, metrics by their reduction
        (protocol 6.4, 6.5).

        Args:
            data: the examples, at least one.
            loss_fn: ``cross_entropy``, ``importance_sampling``, ``ppo`` or another loss of the server.
            loss_fn_config: the loss's settings, such as ``clip_low_threshold``.

        Returns:
            For each datum its ``logprobs`` (float32, one per token), and metrics such as ``loss:sum``.

        Raises:
            InputError: no data, a ragged datum, or one that lacks what the loss needs; nothing was sent.
            LocalWireError: something that this server's dialect cannot carry; nothing was sent.
            SequenceBrokenError: an earlier request of this model was lost.
            RequestFailedError: (awaited) the server could not compute it.
        """
        return self._batch("forward_backward", data, loss_fn, loss_fn_config)

    def forward_backward_custom(
        self, data: Iterable[Datum], loss_fn: CustomLoss, loss_type_input: Literal["logprobs"] | None = None
    ) -> ApiFuture[ForwardBackwardOutput]:
        """Compute a loss of your own, here, and add its gradient to the model's accumulator.

        The server computes the logprobs of the targets; the loss and its gradient are computed from them in one of the
        system's threads; the server then takes the gradient on to the model, by a ``cross_entropy`` whose weights are
        its negative (protocol 6.7). The numbers of both requests are taken at the call, so you may submit
        ``optim_step`` at once. Cancelled or failed, it leaves no gap: what was called behind it goes on, except an
        ``optim_step`` that was to apply its gradient, which fails with it.

        Args:
            data: the examples. Each needs ``target_tokens``, ``[T]`` or ``[T, K]``; whatever else is in
                ``loss_fn_inputs`` stays here, for the loss to read.
            loss_fn: ``loss(data, logprobs) -> (scalar, metrics)``, with an array of logprobs for each datum in the
                shape of its targets, in JAX (numpy and torch work too); or a ``losses.BatchLoss``, which is faster on
                batches of many lengths; or an objective of ``losses``. Metrics are numbers named ``name:reduction``.
            loss_type_input: ``"logprobs"`` or None, as the official client has it; nothing else is left of it.

        Returns:
            The outputs of the backward pass; the loss as ``loss:sum``, the server's own as ``surrogate_loss:sum``,
            and the loss's metrics.

        Raises:
            InputError: no data, a datum without ``target_tokens``, or a loss that is no function; nothing was sent.
            ConfigError: JAX is not installed; nothing was sent.
            SequenceBrokenError: an earlier request of this model was lost.
            LossError: (awaited) the loss is no scalar, has no gradient, or a metric is not as it must be.
            NonFiniteLossError: (awaited) NaN or infinity; the message names the datum, the token and the value.
        """
        from tinkex_actors.clients.custom_loss import forward_backward_custom

        return forward_backward_custom(self, data, loss_fn, loss_type_input)

    def optim_step(self, optim_params: OptimParams) -> ApiFuture[OptimStepResponse]:
        """Apply the accumulated gradient, and clear it.

        Args:
            optim_params: ``AdamParams`` for AdamW (decoupled weight decay); ``DimuonParams``, or a dict with the
                optimizer's name under ``type``, for a model that was created with another ``optimizer_config``.

        Raises:
            InputError: none of these.
        """
        self._use()
        if not isinstance(optim_params, (AdamParams, DimuonParams, dict)):
            raise InputError(
                f"optim_step: expected AdamParams, DimuonParams or a dict with a type, got "
                f"{type(optim_params).__name__}. Pass for example AdamParams(learning_rate=1e-4)."
            )
        message = OptimStepRequest.of(self.model_id, optim_params)
        return self._one("optim_step", "optim_step", message)

    def save_state(
        self,
        name: str,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: dict[str, str] | None = None,
    ) -> ApiFuture[SaveWeightsResponse]:
        """Save weights and optimizer state, to go on training from.

        Args:
            name: the checkpoint's name, without a slash.
            ttl_seconds: seconds to keep it; None keeps it.
            overwrite: replace a checkpoint of that name.
            user_metadata: notes to keep with it.

        Returns:
            Its ``path``, for ``create_training_client_from_state``.
        """
        self._use()
        message = SaveWeightsRequest(
            model_id=self.model_id,
            path=_checkpoint_name("save_state", name),
            ttl_seconds=ttl_seconds,
            overwrite=overwrite,
            user_metadata=user_metadata,
        )
        return self._one("save_state", "save_weights", message)

    def load_state(self, path: str) -> ApiFuture[LoadWeightsResponse]:
        """Replace the weights by a checkpoint's, and start the optimizer afresh.

        Raises:
            TinkerPathError: ``path`` is no address, as ``tinker://RUN/weights/NAME`` is one.
        """
        return self._load("load_state", path, optimizer=False)

    def load_state_with_optimizer(self, path: str) -> ApiFuture[LoadWeightsResponse]:
        """Replace the weights and the optimizer's state by a checkpoint's. Errors as :meth:`load_state`."""
        return self._load("load_state_with_optimizer", path, optimizer=True)

    def save_weights_for_sampler(
        self, name: str, ttl_seconds: int | None = None, user_metadata: dict[str, str] | None = None
    ) -> ApiFuture[SaveWeightsForSamplerResponse]:
        """Save weights to sample from. Arguments as :meth:`save_state`; the ``path`` is for
        ``create_sampling_client``."""
        self._use()
        message = SaveWeightsForSamplerRequest(
            model_id=self.model_id,
            path=_checkpoint_name("save_weights_for_sampler", name),
            ttl_seconds=ttl_seconds,
            user_metadata=user_metadata,
        )

        def finish(results: list[Any]) -> SaveWeightsForSamplerResponse:
            if results[0].path is None:
                raise RemoteWireError(f"save_weights_for_sampler({name!r}): the server named no path.")
            return SaveWeightsForSamplerResponse(path=results[0].path)

        return self._one("save_weights_for_sampler", "save_weights_for_sampler", message, finish)

    def save_weights_external(
        self, name: str, ttl_seconds: int | None = None, age_encryption_recipients: list[str] | None = None
    ) -> ApiFuture[SaveWeightsExternalResponse]:
        """Save weights as files to take elsewhere; ``RestClient.download_checkpoint`` fetches them.

        Args:
            name: the checkpoint's name, without a slash.
            ttl_seconds: seconds to keep it; None keeps it.
            age_encryption_recipients: at most 10 ``age1...`` keys or SSH public keys; the files are encrypted for them.
        """
        self._use()
        message = SaveWeightsExternalRequest(
            model_id=self.model_id,
            path=_checkpoint_name("save_weights_external", name),
            ttl_seconds=ttl_seconds,
            age_encryption_recipients=age_encryption_recipients,
        )

        def finish(results: list[Any]) -> SaveWeightsExternalResponse:
            if results[0].path is None:
                raise RemoteWireError(f"save_weights_external({name!r}): the server named no path.")
            return SaveWeightsExternalResponse(path=results[0].path)

        return self._one("save_weights_external", "save_weights_external", message, finish)

    def save_weights_and_get_sampling_client(
        self, kind: SamplingClientKind = "snapshot", retry_config: RetryConfig | None = None
    ) -> ApiFuture[SamplingClient]:
        """Sample from the weights as they are at this point of the call order.

        Args:
            kind: ``snapshot`` for fixed weights; ``inflight`` for one moving target per model (protocol 2.9).
            retry_config: how lost samples are sent again.
        """
        core = self._use()
        number = next(core.session.sampling_numbers)
        message = SaveWeightsForSamplerRequest(model_id=self.model_id, sampling_session_seq_id=number, kind=kind)
        saved = self._one("save_weights_and_get_sampling_client", "save_weights_for_sampler", message)

        async def run(future: ApiFuture[Any]) -> SamplingClient:
            from tinkex_actors.clients.creation import sampler_of_save

            future.waits_for(lambda: saved.record().state)
            answer = await saved
            future.waits_for("the tokenizer")
            if answer.sampling_session_id is None:
                raise RemoteWireError(
                    f"save_weights_and_get_sampling_client on {self.model_id}: the server made no sampling session."
                )
            return await sampler_of_save(core, answer.sampling_session_id, self.base_model, retry_config)

        return core.courier.send("save_weights_and_get_sampling_client", run, model_id=self.model_id)

    def create_sampling_client(
        self, model_path: str, retry_config: RetryConfig | None = None
    ) -> ApiFuture[SamplingClient]:
        """Sample from saved weights: as ``ServiceClient.create_sampling_client(model_path)``."""
        from tinkex_actors.clients.creation import create_sampler

        return create_sampler(
            self._use(),
            "create_sampling_client",
            model_path=model_path,
            base_model=None,
            retry_config=retry_config,
        )

    def get_info(self) -> ApiFuture[GetInfoResponse]:
        """What the server says of the model; asked once, when the client was made."""
        future = self._use().ledger.open("get_info", model_id=self.model_id)
        future.resolve(self._info)
        return future

    def get_tokenizer(self) -> ApiFuture[Tokenizer]:
        """The model's tokenizer, loaded off the loop at the first call."""
        core = self._use()

        async def run(_: ApiFuture[Any]) -> Tokenizer:
            if self._tokenizer is None:
                self._tokenizer = await load_tokenizer(
                    core.system, core.config, self.base_model, self._info.model_data.tokenizer_id
                )
            return self._tokenizer

        return core.courier.send("get_tokenizer", run, model_id=self.model_id)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, if it is at hand: always for ``local://`` models, else after :meth:`get_tokenizer`.

        Raises:
            TokenizerNotLoadedError: it is not.
        """
        if self._tokenizer is None:
            raise TokenizerNotLoadedError(
                f"The tokenizer of {self.base_model} is not loaded. Call `await training.get_tokenizer()` once first."
            )
        return self._tokenizer

    def unload_model(self) -> ApiFuture[UnloadModelResponse]:
        """Free the model's memory on the server, after the calls before this one; later calls raise ``ClosedError``."""
        core = self._use()
        route = ROUTES["unload_model"]
        earlier = self._desk.pending()
        self._unloaded = True
        key = f"{self.model_id}:unload:{uuid.uuid4()}"

        async def run(future: ApiFuture[Any]) -> UnloadModelResponse:
            # The request has no number of its own (protocol appendix B), so its place in the call order is kept here.
            for call in earlier:
                future.waits_for(lambda call=call: f"waiting for {call.operation} to end")  # type: ignore[misc]
                await call.wait()
            future.waits_for("the server's answer")
            message = UnloadModelRequest(model_id=self.model_id)
            promise = await core.link.exchange(route, message, idempotency_key=key)
            answer: UnloadModelResponse = await core.result_of(promise, route, future)
            core.tree.remove_trainer(self.model_id)
            return answer

        return core.courier.send("unload_model", run, model_id=self.model_id)

    def adopt(self, other: TrainingClient) -> None:
        """Go on as another client's model: from now on this client's calls are that model's.

        What was called before stays with the model it was called on. For programs that pass a client around and
        replace its model, as recovery does.
        """
        self._core, self._desk, self._info = other._core, other._desk, other._info
        self._tokenizer = other._tokenizer or self._tokenizer
        self._unloaded = other._unloaded
        self.model_id, self.base_model = other.model_id, other.base_model

    def _use(self) -> Backbone:
        core = self._core.use()
        if self._unloaded:
            raise ClosedError(f"{self.model_id} was unloaded by this client. Create a client from a checkpoint.")
        return core

    def _batch(
        self,
        operation: str,
        data: Iterable[Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None,
    ) -> ApiFuture[ForwardBackwardOutput]:
        self._use()
        batch = checked_batch(operation, data, loss_fn)
        sizes = list(map(estimate_bytes, batch))
        parts = self._parts(sizes)
        config = None if loss_fn_config is None else dict(loss_fn_config)
        chunks = self._chunks(operation, batch, sizes, parts, loss_fn, config, forward_only=operation == "forward")
        return self._desk.submit(operation, ROUTES[operation], chunks, combine)

    def _parts(self, sizes_bytes: Sequence[int]) -> list[range]:
        """Cut a batch of data of these sizes as the server wants it (protocol 6.4)."""
        flags = self._core.session.flags
        limits = ChunkLimits(max_items=flags.fwdbwd_max_chunk_len, max_bytes=flags.fwdbwd_max_chunk_bytes_count)
        return split(sizes_bytes, limits)

    def _chunks(
        self,
        operation: str,
        batch: Sequence[Datum],
        sizes_bytes: Sequence[int],
        parts: Sequence[range],
        loss_fn: str,
        config: dict[str, float | str] | None,
        *,
        forward_only: bool,
    ) -> list[Chunk]:
        """Make the requests of a batch, refusing what can never be sent."""
        # Of a batch in protobuf, only what can fail is encoded twice.
        protobuf = self._core.link.dialect.protobuf
        doubtful = [datum for datum in batch if not protobuf or _has_pointers(datum)]

        def request(data: Sequence[Datum]) -> ForwardBackwardRequest:
            return ForwardBackwardRequest(
                forward_backward_input=ForwardBackwardInput(data=list(data), loss_fn=loss_fn, loss_fn_config=config),
                model_id=self.model_id,
                forward_only=forward_only,
            )

        self._check_encodable(operation, request(doubtful))
        slices = [slice(part.start, part.stop) for part in parts]
        return [Chunk(request(batch[piece]), sum(sizes_bytes[piece])) for piece in slices]

    def _load(self, operation: str, path: str, *, optimizer: bool) -> ApiFuture[LoadWeightsResponse]:
        self._use()
        checkpoint_path(path)
        message = LoadWeightsRequest(path=path, optimizer=optimizer, model_id=self.model_id)
        return self._one(operation, "load_weights", message)

    def _one(
        self,
        operation: str,
        route: str,
        message: msgspec.Struct,
        finish: Callable[[list[Any]], Any] = lambda results: results[0],
    ) -> ApiFuture[Any]:
        self._check_encodable(route, message)
        return self._desk.submit(operation, ROUTES[route], [Chunk(message)], finish)

    def _check_encodable(self, route: str, message: msgspec.Struct) -> None:
        # Before a number is taken: one that can never be sent would stop every request after it.
        encode_request(ROUTES[route], message, self._core.link.dialect)

    def __repr__(self) -> str:
        return f"<TrainingClient {self.model_id} of {self.base_model}>"


def checked_batch(operation: str, data: Iterable[Datum], loss_fn: str) -> list[Datum]:
    if isinstance(data, Datum):
        raise InputError(f"{operation}: expected a sequence of Datum, got a single one. Pass [datum].")
    batch = list(data)
    if not batch:
        raise InputError(f"{operation}: no data. Expected at least one Datum, got an empty sequence.")
    for index, datum in enumerate(batch):
        if not isinstance(datum, Datum):
            raise InputError(f"{operation}: data[{index}] is a {type(datum).__name__}; expected a Datum.")
        check_datum(datum, loss_fn, index)
    return batch


def _has_pointers(datum: Datum) -> bool:
    return any(isinstance(chunk, ImageAssetPointerChunk) for chunk in datum.model_input.chunks)


def _checkpoint_name(operation: str, name: str) -> str:
    if not isinstance(name, str) or not name or "/" in name:
        raise InputError(f"{operation}: expected a checkpoint name without a slash, such as 'step-100', got {name!r}.")
    return name
