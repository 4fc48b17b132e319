"""Scores of a prompt, in the one shape that users see: an entry for each token, the first of them empty.

The first token follows nothing, so nobody can score it. The hosted service answers n entries with an empty first;
others answer n - 1, or n with a number in front that means nothing.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import RemoteWireError
from tinkex_actors.types import SampleResponse, TopkLogprobs

__all__ = ["aligned"]

# An empty cell (protocol 2.4).
_NO_TOKEN: Final = 0
_NO_LOGPROB: Final = -99999.0


def aligned(response: SampleResponse, prompt_tokens: int, *, last_n: int | None = None) -> SampleResponse:
    """Return the response with an entry of prompt scores for each prompt token, the first of them empty.

    Args:
        response: as it was decoded; returned itself where nothing has to change.
        prompt_tokens: n, the tokens of the prompt that was sent.
        last_n: as asked with ``prompt_logprobs_last_n``: so few entries are accepted too.

    Raises:
        RemoteWireError: scores in another number; the text says which and how many.
    """
    changes: dict[str, Any] = {}
    scores, topk = response.prompt_logprobs_np, response.topk_prompt_logprobs_np
    if scores is not None and (len(scores) != prompt_tokens or not np.isnan(scores[:1]).all()):
        changes["prompt_logprobs_np"] = _shifted(scores, np.nan, "prompt_logprobs", prompt_tokens, last_n)
    if topk is not None and (len(topk.logprobs) != prompt_tokens or bool((topk.logprobs[:1] > _NO_LOGPROB).any())):
        name = "topk_prompt_logprobs"
        changes["topk_prompt_logprobs_np"] = TopkLogprobs(
            _shifted(topk.token_ids, _NO_TOKEN, name, prompt_tokens, last_n),
            _shifted(topk.logprobs, _NO_LOGPROB, name, prompt_tokens, last_n),
        )
    return msgspec.structs.replace(response, **changes) if changes else response


def _shifted(
    rows: npt.NDArray[Any], empty: float, name: str, prompt_tokens: int, last_n: int | None
) -> npt.NDArray[Any]:
    if len(rows) not in (prompt_tokens, prompt_tokens - 1, last_n) or len(rows) > prompt_tokens:
        raise RemoteWireError(
            f"{name}: {len(rows)} entries for a prompt of {prompt_tokens} tokens; expected {prompt_tokens}, the first "
            f"empty, or {prompt_tokens - 1}."
        )
    whole = np.full((prompt_tokens, *rows.shape[1:]), empty, rows.dtype)
    whole[prompt_tokens - len(rows) :] = rows
    whole[:1] = empty
    return whole
