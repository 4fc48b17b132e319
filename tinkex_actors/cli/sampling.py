"""``sample``: one question to a local model."""

from __future__ import annotations

__all__ = ["answer"]


async def answer(model: str, text: str, *, max_tokens: int, temperature: float, seed: int | None) -> str:
    """Return a local model's answer to one user message.

    Args:
        model: a name from ``models list``.
        text: the message; it is put into the model's chat form.
        max_tokens: the longest answer, in tokens.
        temperature: 0 takes the likeliest token each time.
        seed: the same seed gives the same answer; None draws one.

    Raises:
        ConfigError: no such model.
        ModelNotInstalledError: its weights are not on this machine.
    """
    from tinkex_actors import ModelInput, SamplingParams, ServiceClient

    async with ServiceClient(base_url=f"local://{model}") as service:
        sampler = await service.create_sampling_client(base_model=model)
        tokenizer = await sampler.get_tokenizer()
        prompt = ModelInput.from_ints(tokenizer.chat_prompt([{"role": "user", "content": text}]))
        params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
        response = await sampler.sample(prompt, sampling_params=params)
        return str(tokenizer.decode(response.sequences[0].tokens, skip_special_tokens=True)).strip()
