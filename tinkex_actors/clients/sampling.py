"""Samples from one set of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinkex_actors.clients.tokenizer import load_tokenizer
from tinkex_actors.errors import InputError, RemoteWireError, TokenizerNotLoadedError
from tinkex_actors.machines.chunking import estimate_prompt_bytes
from tinkex_actors.types import ModelInput, SampleRequest, SampleResponse, SamplingParams
from tinkex_actors.wire.prompts import aligned

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinkex_actors.actors.dispatcher import SamplerSession
    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.clients.backbone import Backbone
    from tinkex_actors.tokenizers import Tokenizer
    from tinkex_actors.types import TensorData

__all__ = ["SamplingClient"]


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

        Raises:
            InputError: an argument no server could accept; nothing was sent.
            RequestFailedError: (awaited) the server could not sample.
        """
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
        return self._submit("sample", request, lambda answer: answer)

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

        return self._submit("compute_logprobs", request, finish)

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

    def _submit(
        self, operation: str, request: SampleRequest, finish: Callable[[SampleResponse], Any]
    ) -> ApiFuture[Any]:
        scored = request.prompt_logprobs or request.topk_prompt_logprobs

        def end(answer: SampleResponse) -> Any:
            # Servers differ in whether the first token, which has no score, has an entry.
            if scored:
                answer = aligned(answer, request.prompt.length, last_n=request.prompt_logprobs_last_n)
            return finish(answer)

        return self._core.use().dispatcher.submit(
            operation, self._session, request, size_bytes=estimate_prompt_bytes(request.prompt), finish=end
        )

    def __repr__(self) -> str:
        return f"<SamplingClient {self.sampling_session_id} of {self.base_model}>"


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
