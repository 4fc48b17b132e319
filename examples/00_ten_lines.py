import asyncio

from tinkex_actors import AdamParams, Datum, ModelInput, SamplingParams, ServiceClient


async def main() -> None:
    async with ServiceClient(base_url="local://tiny") as service:  # or https://..., with TINKER_API_KEY
        training = await service.create_lora_training_client("tiny", rank=16)
        tokens = training.tokenizer.encode("a stitch in time saves nine")
        example = Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:]})  # the next token, everywhere
        for _ in range(10):
            step = training.forward_backward([example], "cross_entropy")  # submitted, in order
            update = training.optim_step(AdamParams(learning_rate=1e-2))
            print((await step).metrics["loss:sum"], (await update).metrics)
        sampler = await training.save_weights_and_get_sampling_client()
        prompt = ModelInput.from_ints(tokens[:8])
        answer = await sampler.sample(prompt, num_samples=4, sampling_params=SamplingParams(max_tokens=16))
        print(training.tokenizer.decode(answer.sequences[0].tokens))


asyncio.run(main())
