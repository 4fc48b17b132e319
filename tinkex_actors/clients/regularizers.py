"""Regularizers that are awaited, that run at the same time, or that may take too long: what pure losses cannot do."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tinkex_actors.actors.loss_events import (
    CustomLossFailed,
    CustomLossStarted,
    CustomLossStopped,
    RegularizerFailed,
    RegularizerStarted,
    RegularizerStopped,
)
from tinkex_actors.errors import LossError, TinkexError

if TYPE_CHECKING:
    from tinkex_actors.losses import Evaluation, RegularizerPipeline, RegularizerSpec
    from tinkex_actors.runtime import ActorSystem
    from tinkex_actors.types import CustomLossOutput

__all__ = ["LOSS_EXECUTOR", "LOSS_NICENESS", "compute_regularized", "told", "with_results"]

LOSS_EXECUTOR = "losses"
# XLA fills every processor: with equal priority the loop would wait for its turn, milliseconds each time it wakes up.
LOSS_NICENESS = 5


async def compute_regularized(
    system: ActorSystem,
    pipeline: RegularizerPipeline,
    data: Sequence[Any],
    logprobs: Any,
    base_loss: Any = None,
    *,
    mask: Any = None,
    key: Any = None,
) -> CustomLossOutput:
    """Compute a pipeline's report off the loop, awaiting what is asynchronous. As ``pipeline.compute`` otherwise.

    Terms run at the same time, as many as there are processors, or one after another with ``parallel=False``; each has
    ``pipeline.timeout`` seconds. The first failure, in the terms' order, is raised, and the others are given up on: a
    thread that is at work goes on to its end. ``system.events`` gets ``CustomLossStarted``, ``RegularizerStarted``
    and how each of them ended.

    Args:
        system: whose threads and events are used, such as ``service.system``.
        pipeline: the terms.
        data: the batch.
        logprobs: a list of arrays, or one array.
        base_loss: instead of the pipeline's own.
        mask: for the regularizers.
        key: for regularizers that draw.

    Raises:
        LossError: a term or the base loss failed, or took too long; the message has its name.
        InputError: no base loss.
    """
    run = _Run(system, pipeline, data, logprobs, mask, key)
    started = system.loop.time()
    count = len(pipeline.regularizers)
    system.events.publish(CustomLossStarted(regularizer_count=count, track_grad_norms=pipeline.track_grad_norms))
    try:
        output = await run.report(base_loss)
    except BaseException as error:
        system.events.publish(CustomLossFailed(duration=system.loop.time() - started, reason=_words(error)))
        raise
    system.events.publish(
        CustomLossStopped(
            duration=system.loop.time() - started,
            loss_total=output.loss_total,
            regularizer_total=output.regularizer_total,
            regularizer_count=count,
        )
    )
    return output


async def with_results(pipeline: Any, data: Sequence[Any], logprobs: Any) -> Any:
    """Return a pipeline whose asynchronous terms have been awaited, each for at most ``pipeline.timeout`` seconds.

    Raises:
        LossError: one of them failed or took too long.
    """
    found: Mapping[str, Any]
    if pipeline.parallel:
        results = await _all([_awaited(spec, data, logprobs, pipeline.timeout) for spec in pipeline.asynchronous])
        found = {spec.name: result for spec, result in zip(pipeline.asynchronous, results, strict=True)}
    else:
        found = {spec.name: await _awaited(spec, data, logprobs, pipeline.timeout) for spec in pipeline.asynchronous}
    return pipeline.with_results(found)


async def told(system: ActorSystem, loss: Any, evaluation: Awaitable[Evaluation]) -> Evaluation:
    """Await a loss's evaluation; where the loss is a pipeline, publish what became of it and of each of its terms."""
    specs: Sequence[RegularizerSpec] | None = getattr(loss, "regularizers", None)
    if specs is None:
        return await evaluation
    publish, since, weights = system.events.publish, system.loop.time(), loss.weights
    about = [{"regularizer_name": s.name, "weight": weights[s.name], "is_async": s.is_async} for s in specs]
    publish(CustomLossStarted(regularizer_count=len(specs), track_grad_norms=loss.track_grad_norms))
    for one in about:
        publish(RegularizerStarted(**one))
    try:
        found = await evaluation
    except BaseException as error:
        publish(CustomLossFailed(duration=system.loop.time() - since, reason=_words(error)))
        raise
    duration, metrics = system.loop.time() - since, found.metrics
    for one in about:
        share = f"{one['regularizer_name']}/"
        publish(
            RegularizerStopped(
                **one,
                duration=duration,
                value=metrics[f"{share}value:mean"],
                contribution=metrics[f"{share}contribution:mean"],
                grad_norm=metrics.get(f"{share}grad_norm:mean"),
            )
        )
    total = metrics["regularizer_total:mean"]
    count = len(specs)
    publish(
        CustomLossStopped(duration=duration, loss_total=found.loss, regularizer_total=total, regularizer_count=count)
    )
    return found


class _Run:
    """One computation of a pipeline."""

    def __init__(
        self,
        system: ActorSystem,
        pipeline: RegularizerPipeline,
        data: Sequence[Any],
        logprobs: Any,
        mask: Any,
        key: Any,
    ) -> None:
        self._system = system
        self._pipeline = pipeline
        self._data = data
        self._logprobs = logprobs
        self._options = {"mask": mask, "key": key}
        self._weights = pipeline.weights
        self._awaited = {spec.name for spec in pipeline.asynchronous}
        self._durations: dict[str, float] = {}

    async def report(self, base_loss: Any) -> CustomLossOutput:
        pipeline, data, logprobs = self._pipeline, self._data, self._logprobs
        value, metrics = await self._blocking(pipeline.base_part, data, logprobs, base_loss)
        if pipeline.parallel:
            at_once = asyncio.Semaphore(os.cpu_count() or 1)
            ended = await _all([self._term(spec, at_once) for spec in pipeline.regularizers])
        else:
            at_once = asyncio.Semaphore(1)
            ended = [await self._term(spec, at_once) for spec in pipeline.regularizers]
        results = {spec.name: result for spec, (result, _) in zip(pipeline.regularizers, ended, strict=True)}
        ready = pipeline.with_results(results) if pipeline.asynchronous else pipeline
        shares = [share for _, share in ended]

        def report() -> CustomLossOutput:
            return ready.report(data, logprobs, base_loss, value, metrics, shares, **self._options)

        output: CustomLossOutput = await self._blocking(report)
        if pipeline.track_grad_norms:
            for share in shares:
                self._stopped(share, output.regularizers[share.name].grad_norm)
        return output

    async def _term(self, spec: RegularizerSpec, at_once: asyncio.Semaphore) -> tuple[Any, Any]:
        publish, clock = self._system.events.publish, self._system.loop.time
        about: dict[str, Any] = {"regularizer_name": spec.name, "weight": self._weights[spec.name]}
        publish(RegularizerStarted(**about, is_async=spec.is_async))
        started = clock()
        try:
            async with at_once:
                result, share = await self._compute(spec)
        except BaseException as error:
            publish(RegularizerFailed(**about, duration=clock() - started, reason=_words(error)))
            raise
        self._durations[spec.name] = clock() - started
        if not self._pipeline.track_grad_norms:
            self._stopped(share, None)
        return result, share

    def _stopped(self, share: Any, grad_norm: float | None) -> None:
        self._system.events.publish(
            RegularizerStopped(
                regularizer_name=share.name,
                weight=share.weight,
                is_async=share.name in self._awaited,
                duration=self._durations[share.name],
                value=share.value,
                contribution=share.weight * share.value,
                grad_norm=grad_norm,
            )
        )

    async def _compute(self, spec: RegularizerSpec) -> tuple[Any, Any]:
        timeout = self._pipeline.timeout
        result = None
        try:
            async with asyncio.timeout(timeout):
                if spec.is_async:
                    result = await _result(spec, self._data, self._logprobs)
                    spec = spec.with_result(result)

                def compute() -> Any:
                    return self._pipeline.share(spec, self._data, self._logprobs, **self._options)

                return result, await self._blocking(compute)
        except TimeoutError as error:
            raise _too_slow(spec, timeout) from error

    async def _blocking(self, function: Any, *args: Any) -> Any:
        return await self._system.blocking(
            function, *args, executor=LOSS_EXECUTOR, workers=os.cpu_count() or 1, niceness=LOSS_NICENESS
        )


async def _awaited(spec: RegularizerSpec, data: Sequence[Any], logprobs: Any, timeout: float) -> Any:
    try:
        async with asyncio.timeout(timeout):
            return await _result(spec, data, logprobs)
    except TimeoutError as error:
        raise _too_slow(spec, timeout) from error


async def _result(spec: RegularizerSpec, data: Sequence[Any], logprobs: Any) -> Any:
    try:
        found = spec.call(data, logprobs)
        return await found if inspect.isawaitable(found) else found
    except (TinkexError, TimeoutError):
        raise
    except Exception as error:
        raise LossError(f"regularizer {spec.name!r} failed: {_words(error)}") from error


def _too_slow(spec: RegularizerSpec, timeout: float) -> LossError:
    return LossError(
        f"regularizer {spec.name!r} took longer than {timeout:g} s. Give RegularizerPipeline a longer timeout=, or "
        "make it faster."
    )


async def _all(coroutines: Sequence[Any]) -> list[Any]:
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
