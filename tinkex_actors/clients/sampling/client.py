"""Samples from one set of weights."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from tinkex_actors.actors.attribution import attributed
from tinkex_actors.actors.dispatcher.events import (
    BackoffWindowClosed,
    BackoffWindowOpened,
    SamplingQueuePaused,
    SamplingQueueResumed,
)
from tinkex_actors.actors.link.streaming import stream_sample
from tinkex_actors.clients.sampling.batch import SampleBatch
from tinkex_actors.clients.sampling.handle import SamplerHandle
from tinkex_actors.clients.tokenizer import load_tokenizer
from tinkex_actors.errors import InputError, RemoteWireError, TokenizerNotLoadedError, UnsupportedByServerError
from tinkex_actors.machines.chunking import estimate_prompt_bytes
from tinkex_actors.types import ModelInput, SampleRequest, SampleResponse, SamplingParams
from tinkex_actors.wire.prompts import aligned

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from tinkex_actors.actors.dispatcher import SamplerSession
    from tinkex_actors.actors.dispatcher.sample import Priority
    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.clients.backbone import Backbone
    from tinkex_actors.machines.admission import AdmissionStatistics
    from tinkex_actors.tokenizers import Tokenizer
    from tinkex_actors.types import SampleStreamChunk, TensorData

__all__ = ["SamplingClient"]

# More than a service has in flight, so that its admission and not this decides.
_AT_ONCE = 4096


@attributed
class SamplingClient:
    """Draws continuations and scores prompts. Made by :class:`~tinkex_actors.ServiceClient` or a training client.

    Attributes:
        sampling_session_id: the server's name for it.
        base_model: the model behind the weights, where the server says.
    """

    def __init__(
        self, core: Backbone, session: SamplerSession, *, base_model: str | None, tokenizer: Tokenizer | None
    ) -> None:
        self._core = core
        self._session = session
        self._tokenizer = tokenizer
        self.sampling_session_id = session.sampling_session_id
        self.base_model = base_model

    def sample(
        self,
        prompt: ModelInput,
        num_samples: int = 1,
        sampling_params: SamplingParams | None = None,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        *,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: TensorData | None = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
        priority: Priority = "normal",
    ) -> ApiFuture[SampleResponse]:
        """Draw continuations of a prompt.

        What waits is bounded by the server's limits, in requests and in prompt bytes; after a 429 everything waits
        for the back-off window. Cancelling the future gives the request up and its place back.

        Args:
            prompt: what to continue.
            num_samples: independent continuations, 1 or more.
            sampling_params: temperature, length, stops, seed; the defaults of :class:`~tinkex_actors.SamplingParams`.
            include_prompt_logprobs: score the prompt too; the first entry is None.
            topk_prompt_logprobs: that many best tokens for each prompt position.
            topk_sample_logprobs: that many best tokens for each sampled position.
            target_prompt_logprobs: int64 ``[len(prompt) - 1, K]`` token ids to score; -1 skips a cell.
            prompt_alt_tokens_k: that many draws for each prompt position.
            prompt_logprobs_last_n: score only that many last positions.
            priority: ``low``, ``normal`` or ``high``: its weight among the samples that wait; a low one is slow, never
                stuck.

        Raises:
            InputError: an argument no server could accept; nothing was sent.
            RequestFailedError: (awaited) the server could not sample.
        """
        if priority not in ("low", "normal", "high"):
            raise InputError(f"sample: priority must be 'low', 'normal' or 'high', got {priority!r}.")
        request = SampleRequest(
            prompt=_prompt("sample", prompt),
            sampling_params=sampling_params or SamplingParams(),
            num_samples=_at_least("num_samples", num_samples, 1),
            prompt_logprobs=include_prompt_logprobs,
            topk_prompt_logprobs=_at_least("topk_prompt_logprobs", topk_prompt_logprobs, 0),
            topk_sample_logprobs=_at_least("topk_sample_logprobs", topk_sample_logprobs, 0),
            target_prompt_logprobs=target_prompt_logprobs,
            prompt_alt_tokens_k=_at_least("prompt_alt_tokens_k", prompt_alt_tokens_k, 0),
            prompt_logprobs_last_n=_last_n(prompt_logprobs_last_n, include_prompt_logprobs),
            record_stability_info=False,
        )
        return self._submit("sample", request, None, priority)

    def sample_many(
        self,
        prompts: Iterable[ModelInput],
        num_samples: int = 1,
        sampling_params: SamplingParams | None = None,
        *,
        at_once: int = _AT_ONCE,
        return_errors: bool = False,
        progress: Callable[[SampleBatch], object] | None = None,
        **options: Any,
    ) -> SampleBatch:
        """Draw continuations of many prompts.

        ::

            answers = await sampler.sample_many(prompts)            # in the prompts' order
            async for item in sampler.sample_many(prompts):         # as they end
                print(item.index, item.response or item.error)

        Args:
            prompts: what to continue; taken one by one as there is room, so it may be a generator.
            num_samples: independent continuations of each, 1 or more.
            sampling_params: as for :meth:`sample`.
            at_once: how many are held at once: waiting, under way, or ended and not taken yet.
            return_errors: put errors into the list that awaiting gives; otherwise the first one is raised, and the rest
                given up. Iterating gives each error with its item, whatever this says.
            progress: called with the batch each time one has ended.
            options: of :meth:`sample`.

        Raises:
            InputError: ``at_once`` is below 1. What is wrong with a prompt is raised where the batch is awaited.
        """
        _at_least("at_once", at_once, 1)
        self._core.use()

        def submit(prompt: ModelInput) -> ApiFuture[SampleResponse]:
            return self.sample(prompt, num_samples, sampling_params, **options)

        return SampleBatch(prompts, submit, at_once=at_once, return_errors=return_errors, progress=progress)

    async def sample_stream(
        self, prompt: ModelInput, num_samples: int = 1, sampling_params: SamplingParams | None = None
    ) -> AsyncGenerator[SampleStreamChunk, None]:
        """Draw continuations of a prompt and yield each token as it comes: ``async for chunk in ...``.

        It passes by the budgets and the back-off window, and nothing of it is sent again. Closing the generator gives
        the rest up.

        Args:
            prompt: what to continue.
            num_samples: independent continuations; ``chunk.index`` tells them apart.
            sampling_params: as for :meth:`sample`.

        Raises:
            InputError: an argument no server could accept; nothing was sent.
            UnsupportedByServerError: the server cannot stream; the hosted one cannot.
            RequestFailedError: the server could not go on.
            APIConnectionError: the connection broke, or the stream ended before the sample did.
        """
        request = SampleRequest(
            prompt=_prompt("sample_stream", prompt),
            sampling_params=sampling_params or SamplingParams(),
            num_samples=_at_least("num_samples", num_samples, 1),
            sampling_session_id=self.sampling_session_id,
            seq_id=self._session.next_number(),
        )
        async with aclosing(stream_sample(self._core.use().link, request)) as chunks:
            async for chunk in chunks:
                yield chunk

    def compute_logprobs(
        self, prompt: ModelInput, prompt_logprobs_last_n: int | None = None
    ) -> ApiFuture[list[float | None]]:
        """Score a prompt: for each token its log probability given those before it; the first entry is None.

        Args:
            prompt: what to score.
            prompt_logprobs_last_n: score only that many last positions; the others are None.
        """
        request = SampleRequest(
            prompt=_prompt("compute_logprobs", prompt),
            sampling_params=SamplingParams(max_tokens=1),
            prompt_logprobs=True,
            prompt_logprobs_last_n=_last_n(prompt_logprobs_last_n, True),
            record_stability_info=False,
        )

        def finish(answer: SampleResponse) -> list[float | None]:
            if answer.prompt_logprobs is None:
                raise RemoteWireError(
                    f"compute_logprobs on {self.sampling_session_id}: the server gave no prompt logprobs."
                )
            return answer.prompt_logprobs

        return self._submit("compute_logprobs", request, finish, "normal")

    def get_tokenizer(self) -> ApiFuture[Tokenizer]:
        """The model's tokenizer, loaded off the loop at the first call."""
        core = self._core.use()

        async def run(_: ApiFuture[Any]) -> Tokenizer:
            if self._tokenizer is None:
                if self.base_model is None:
                    raise TokenizerNotLoadedError("The server did not say which base model this sampler has.")
                self._tokenizer = await load_tokenizer(core.system, core.config, self.base_model, None)
            return self._tokenizer

        return core.courier.send("get_tokenizer", run)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, if it is at hand: always for ``local://`` models, else after :meth:`get_tokenizer`.

        Raises:
            TokenizerNotLoadedError: it is not.
        """
        if self._tokenizer is None:
            raise TokenizerNotLoadedError(
                f"The tokenizer of {self.base_model} is not loaded. Call `await sampler.get_tokenizer()` once first."
            )
        return self._tokenizer

    # --- its share, and what holds it back ----------------------------------------------------------------------
    @property
    def share(self) -> float:
        """Its weight against the service's other sampling clients while samples wait; 1 at first."""
        return self._session.weight

    @share.setter
    def share(self, weight: float) -> None:
        if not 0.0 < weight < float("inf"):
            raise InputError(f"SamplingClient.share must be a finite number above 0, got {weight!r}.")
        self._session.weight = weight

    def statistics(self) -> AdmissionStatistics:
        """What stands where in the whole service: waiting, being posted, in flight, and the back-off window."""
        return self._core.use().dispatcher.statistics()

    def on_rate_limited(self, hook: Callable[[BackoffWindowOpened], object]) -> Callable[[], None]:
        """Call ``hook(event)`` when the server asks sampling to slow down; returns what ends it."""
        return self._core.use().system.events.subscribe(hook, BackoffWindowOpened)

    def on_resumed(self, hook: Callable[[BackoffWindowClosed], object]) -> Callable[[], None]:
        """Call ``hook(event)`` when the server takes samples again; returns what ends it."""
        return self._core.use().system.events.subscribe(hook, BackoffWindowClosed)

    def on_queue_state(
        self, hook: Callable[[SamplingQueuePaused | SamplingQueueResumed], object]
    ) -> Callable[[], None]:
        """Call ``hook(event)`` when the server pauses this client's queue, at most once in 60 s, and when it goes on.

        Returns what ends it.
        """
        name = self.sampling_session_id

        def told(event: SamplingQueuePaused | SamplingQueueResumed) -> None:
            if event.sampling_session_id == name:
                hook(event)

        return self._core.use().system.events.subscribe(told, SamplingQueuePaused, SamplingQueueResumed)

    def get_sampler_handle(self) -> SamplerHandle:
        """What another process needs to sample from the same weights; it holds no credential, and pickles.

        Give it to ``ServiceClient.create_sampling_client_from_handle`` there.
        """
        core = self._core.use()
        return SamplerHandle(
            session_id=core.session.session_id or "",
            sampling_session_id=self.sampling_session_id,
            base_url=core.config.shown_url,
            base_model=self.base_model,
        )

    def __reduce__(self) -> Any:
        raise TypeError(
            "A SamplingClient lives in one process, with its service. Pickle sampler.get_sampler_handle(), and call "
            "service.create_sampling_client_from_handle(handle) over there."
        )

    def _submit(
        self,
        operation: str,
        request: SampleRequest,
        finish: Callable[[SampleResponse], Any] | None,
        priority: Priority,
    ) -> ApiFuture[Any]:
        return self._core.use().dispatcher.submit(
            operation,
            self._session,
            request,
            size_bytes=estimate_prompt_bytes(request.prompt),
            finish=_finisher(request, finish),
            priority=priority,
        )

    def __repr__(self) -> str:
        return f"<SamplingClient {self.sampling_session_id} of {self.base_model}>"


def _finisher(
    request: SampleRequest, finish: Callable[[SampleResponse], Any] | None
) -> Callable[[SampleResponse], Any]:
    length, last_n = request.prompt.length, request.prompt_logprobs_last_n
    scored = request.prompt_logprobs or request.topk_prompt_logprobs

    def end(answer: SampleResponse) -> Any:
        if request.prompt_alt_tokens_k and answer.prompt_alt_tokens is None:
            raise _too_old("prompt_alt_tokens_k", "the server drew no tokens for the prompt's positions")
        # Servers differ in whether the first token, which has no score, has an entry.
        if scored:
            answer = aligned(answer, length, last_n=last_n)
        return answer if finish is None else finish(answer)

    return end


def _too_old(option: str, what: str) -> UnsupportedByServerError:
    remedy = f"Leave {option} out, or use a server that has it."
    return UnsupportedByServerError(f"{option}: {what}. {remedy}", feature=option, remedy=remedy)


def _prompt(operation: str, prompt: ModelInput) -> ModelInput:
    if not isinstance(prompt, ModelInput):
        raise InputError(
            f"{operation}: prompt is a {type(prompt).__name__}; expected a ModelInput, "
            "such as ModelInput.from_ints(tokenizer.encode(text))."
        )
    if not prompt.chunks or prompt.length == 0:
        raise InputError(f"{operation}: the prompt is empty; expected at least one token.")
    return prompt


def _at_least(name: str, value: int, least: int) -> int:
    if not isinstance(value, int) or value < least:
        raise InputError(f"sample: {name} must be an integer of {least} or more, got {value!r}.")
    return value


def _last_n(value: int | None, scored: bool) -> int | None:
    if value is None:
        return None
    if not scored:
        raise InputError("sample: prompt_logprobs_last_n needs include_prompt_logprobs=True.")
    return _at_least("prompt_logprobs_last_n", value, 1)
