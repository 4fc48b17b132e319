"""The way in: one service, its session, and the clients made from it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tinkex_actors.actors.attribution import attributed, unattributed
from tinkex_actors.actors.futures import ApiFuture
from tinkex_actors.clients.backbone import Backbone
from tinkex_actors.clients.creation import (
    create_model,
    create_model_from_state,
    create_sampler,
    create_sampler_of_handle,
)
from tinkex_actors.clients.custom_loss_handle import create_custom_loss
from tinkex_actors.clients.inside import living_session
from tinkex_actors.clients.recovery import WatchedRun
from tinkex_actors.clients.rest import AdminClient, RestClient
from tinkex_actors.clients.sampling import SamplerHandle
from tinkex_actors.clients.telemetry import Telemetry
from tinkex_actors.config import Config
from tinkex_actors.errors import ClosedError, ConfigError, InputError, WrongLoopError
from tinkex_actors.machines.recovery import RecoveryPolicy
from tinkex_actors.types import LoraConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from tinkex_actors.actors.explanation import Explanation
    from tinkex_actors.clients.custom_loss_handle import LossHandle
    from tinkex_actors.clients.sampling import SamplingClient
    from tinkex_actors.clients.training import TrainingClient
    from tinkex_actors.config import RetryConfig
    from tinkex_actors.runtime import ActorSystem
    from tinkex_actors.transport import Transport
    from tinkex_actors.types import FinishStatus, GetServerCapabilitiesResponse

__all__ = ["ServiceClient"]

_STATUSES = ("success", "errored", "interrupted")


@attributed
class ServiceClient:
    """A Tinker service: a remote one, or a local engine in this process.

    Making one sends nothing. ``async with`` starts it and waits for the session; without it, the first call starts
    it. It belongs to the event loop on which it starts. Leaving ``async with`` closes it: with ``success``, with
    ``errored`` after an exception, with ``interrupted`` after a cancellation or Ctrl-C.

    Args:
        base_url: ``https://HOST/PATH``, ``http://HOST:PORT`` or ``local://MODEL`` (``local://tiny``,
            ``local://smollm2-135m``); default ``TINKER_BASE_URL``, else the hosted service.
        api_key: the credential; default ``TINKER_API_KEY``. Local and loopback servers need none.
        project_id: project for the session; default ``TINKER_PROJECT_ID``.
        user_metadata: notes for the session, text by text.
        display_name: what people see of the session.
        config: all settings at once, instead of ``base_url``, ``api_key`` and ``project_id``.
        system: an actor system to live in; default one of its own.
        session_id: a session to go on with, in place of a new one: one that another process holds, or held until it
            died. It has to be alive. Models and samplers made in it before are not known to this client; what this
            one makes is numbered apart from theirs. Closing leaves it as it is, unless ``close(finish=True)`` is asked.
        transport: carries the requests, instead of what ``base_url`` names; closed with the service. For tests, and for
            servers reached in ways of your own.

    Raises:
        ConfigError: arguments that contradict each other or cannot be used.
        CredentialsError: a remote server without a usable key.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        project_id: str | None = None,
        user_metadata: dict[str, str] | None = None,
        display_name: str | None = None,
        config: Config | None = None,
        system: ActorSystem | None = None,
        session_id: str | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._core: Backbone | None = None
        self._closing: ApiFuture[None] | None = None
        if session_id is not None and not session_id:
            raise ConfigError("ServiceClient: session_id is empty; expected a session's id, or None for a new one.")
        if config is not None and (base_url or api_key or project_id):
            raise ConfigError(
                "ServiceClient: got config and also base_url, api_key or project_id. Put them into the config "
                "(Config.from_environment(base_url=...)), or leave config out."
            )
        self.config = config or Config.from_environment(base_url=base_url, api_key=api_key, project_id=project_id)
        if transport is None:
            self.config.require_key()
        self._user_metadata = user_metadata
        self._display_name = display_name
        self._given_system = system
        self._joins = session_id
        self._given_transport = transport
        self._close_task: asyncio.Task[None] | None = None

    # --- clients -----------------------------------------------------------------------------------------------------
    def create_lora_training_client(
        self,
        base_model: str,
        rank: int = 32,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: dict[str, str] | None = None,
        optimizer_config: Any = None,
    ) -> ApiFuture[TrainingClient]:
        """Create a model: a base with a fresh LoRA adapter.

        Args:
            base_model: a name the server knows (``get_server_capabilities``).
            rank: the adapter's rank, 1 or more.
            seed: of its initial weights; None leaves it to the server.
            train_mlp: adapt the MLP layers.
            train_attn: adapt the attention layers.
            train_unembed: adapt the unembedding.
            user_metadata: notes for the model.
            optimizer_config: for a server with other optimizers than AdamW.

        Raises:
            InputError: a rank below 1, or nothing to train.
            BadRequestError: (awaited) the server refuses the model; the message has its reason.
        """
        core = self._use()
        if not isinstance(base_model, str) or not base_model:
            raise InputError(f"create_lora_training_client: base_model must be a name, got {base_model!r}.")
        lora = LoraConfig(rank=rank, seed=seed, train_mlp=train_mlp, train_attn=train_attn, train_unembed=train_unembed)
        return create_model(core, base_model, lora, user_metadata, optimizer_config)

    def create_training_client_from_state(
        self, path: str, user_metadata: dict[str, str] | None = None, **options: Any
    ) -> ApiFuture[TrainingClient]:
        """Create a model from saved weights, with a fresh optimizer.

        Args:
            path: ``tinker://RUN/weights/NAME``, as ``save_state`` gave it.
            user_metadata: notes for the model.
            options: ``base_model``, ``optimizer_config``, ``weights_access_token`` (protocol 1.7.11).

        Raises:
            TinkerPathError: another kind of path.
        """
        return self._from_state("create_training_client_from_state", path, user_metadata, options, optimizer=False)

    def create_training_client_from_state_with_optimizer(
        self, path: str, user_metadata: dict[str, str] | None = None, **options: Any
    ) -> ApiFuture[TrainingClient]:
        """Create a model from saved weights and optimizer state: training goes on where it was saved.

        Arguments and errors as :meth:`create_training_client_from_state`.
        """
        operation = "create_training_client_from_state_with_optimizer"
        return self._from_state(operation, path, user_metadata, options, optimizer=True)

    def create_sampling_client(
        self,
        model_path: str | None = None,
        base_model: str | None = None,
        retry_config: RetryConfig | None = None,
    ) -> ApiFuture[SamplingClient]:
        """Sample from saved weights, or from a base model.

        Args:
            model_path: ``tinker://RUN/sampler_weights/NAME``.
            base_model: a name the server knows. Exactly one of the two.
            retry_config: how lost samples are sent again.

        Raises:
            InputError: neither or both.
            TinkerPathError: ``model_path`` is no tinker path.
        """
        return create_sampler(
            self._use(),
            "create_sampling_client",
            model_path=model_path,
            base_model=base_model,
            retry_config=retry_config,
        )

    def create_sampling_client_from_handle(
        self, handle: SamplerHandle | str, retry_config: RetryConfig | None = None
    ) -> ApiFuture[SamplingClient]:
        """Sample from a sampling session that another process made: ``sampler.get_sampler_handle()`` over there.

        The two count in blocks of numbers of their own, so that the server takes no request of one for the other's.

        Args:
            handle: the handle, or its text.
            retry_config: how lost samples are sent again; a handle does not carry it.

        Raises:
            InputError: it is no handle, or one of another server.
        """
        found = SamplerHandle.parse(handle) if isinstance(handle, str) else handle
        return create_sampler_of_handle(self._use(), found, retry_config)

    def create_rest_client(self) -> RestClient:
        """Training runs, checkpoints and sessions: what exists. No request is sent."""
        return RestClient(self._use())

    def watch(
        self,
        training: TrainingClient,
        policy: RecoveryPolicy | None = None,
        *,
        on_recovery: Callable[[TrainingClient, TrainingClient, str], object] | None = None,
        on_failure: Callable[[str, Exception], object] | None = None,
        restore: Callable[[str, bool], ApiFuture[TrainingClient]] | None = None,
    ) -> WatchedRun:
        """Have a training run brought back from its newest checkpoint when the server loses it.

        Args:
            training: the run's client.
            policy: attempts, waits, which checkpoint; one for all runs of a service. Default ``RecoveryPolicy()``.
            on_recovery: called on the loop with the old client, the new one and the checkpoint's path.
            on_failure: called with the run's id and the last error when it stays lost.
            restore: makes a client of a checkpoint's path, with the optimizer or without; default this service does,
                in a new session of its own where the server has ended the one it had.

        Raises:
            InputError: the run is watched already.
            ConfigError: other runs are watched under another policy.
        """
        core = self._use()
        chosen = policy if policy is not None else RecoveryPolicy()
        core.recovery.follow(chosen)

        def here(path: str, optimizer: bool) -> ApiFuture[TrainingClient]:
            make = self.create_training_client_from_state
            chosen = self.create_training_client_from_state_with_optimizer if optimizer else make

            async def restored(_: ApiFuture[Any]) -> TrainingClient:
                await living_session(core)
                return await chosen(path)

            return core.courier.send("restore run", restored, path=path)

        return WatchedRun(
            core, training, chosen, restore=restore or here, on_recovery=on_recovery, on_failure=on_failure
        )

    def create_admin_client(self) -> AdminClient:
        """Audit and billing, for administrators. No request is sent."""
        return AdminClient(self._use())

    def copy_weights(
        self, path: str, *, ttl_seconds: int | None = None, weights_access_token: str | None = None
    ) -> ApiFuture[str]:
        """Copy a checkpoint into this client's project; gives the copy's path. See ``RestClient.copy_weights``."""
        return RestClient(self._use()).copy_weights(
            path, ttl_seconds=ttl_seconds, weights_access_token=weights_access_token
        )

    def create_custom_loss(self, fn: Callable[..., Any], input_ranks: Mapping[str, int]) -> ApiFuture[LossHandle]:
        """Make a loss that the server computes, from a JAX function of one datum.

        ::

            def clipped(logprobs, weights):
                return -(jnp.maximum(logprobs, -5.0) * weights).sum(), {"custom/low:sum": (logprobs < -5.0).sum()}

            handle = await service.create_custom_loss(clipped, {"logprobs": 1, "weights": 1})
            await training.forward_backward_custom(data, handle)

        The function is traced to the server's graph format (protocol 6.8) and uploaded; a batch then takes one request
        and no forward pass of its own. Where the server runs no uploaded losses, or the function does something that
        the format has no operation for, the handle runs the function here instead, with the same result; one warning
        (``loss.on_the_client``) and ``handle.why`` say so.

        Args:
            fn: ``fn(logprobs, ...) -> (loss, metrics)``: a scalar, and scalars named ``custom/NAME:sum`` or
                ``custom/NAME:mean``, which are summed and averaged over data; losses are summed. Its other parameters
                are called as in ``loss_fn_inputs``; at most 16 in all, without defaults.
            input_ranks: for each parameter 0 for a scalar, 1 for ``[T]``, 2 for ``[T, K]``.

        Raises:
            InputError: (awaited) parameters, ranks, result or metrics that are not as said, or the same loss twice.
            ConfigError: JAX is not installed.
        """
        return create_custom_loss(self._use(), fn, input_ranks)

    def get_server_capabilities(self) -> ApiFuture[GetServerCapabilitiesResponse]:
        """The models the server has."""
        return RestClient(self._use()).get_server_capabilities()

    # --- life --------------------------------------------------------------------------------------------------------
    def explain(self) -> Explanation:
        """What every pending operation waits for, since when, and until when. ``str()`` of it is for people."""
        return self._use().explain()

    @property
    def system(self) -> ActorSystem:
        """The actor system it lives in; starts the service if need be."""
        return self._use().system

    @property
    def session_id(self) -> str:
        """The session's id.

        Raises:
            ConfigError: there is no session yet; ``async with`` waits for it.
        """
        session_id = self._use().session.session_id
        if session_id is None:
            raise ConfigError(
                "ServiceClient.session_id: the session does not exist yet. Use `async with ServiceClient(...)`, or "
                "await the first client you create."
            )
        return session_id

    @property
    def server_dialect(self) -> tuple[str, ...]:
        """What was found out about the server so far: its dialect's name, then a line for each way in which it differs.

        The dialect is known once there is a session; what concerns training and sampling is found at the first use.
        """
        return self._use().link.speech.lines()

    @property
    def telemetry(self) -> Telemetry:
        """Events of your own for the service."""
        core = self._use()
        return Telemetry(core.telemetry, core.loop)

    def close(
        self, status: FinishStatus = "success", detail: str | None = None, *, finish: bool | None = None
    ) -> ApiFuture[None]:
        """Finish the session, send what telemetry waits, stop the actors, close the connections.

        Whatever is still pending fails with :class:`~tinkex_actors.ClosedError`. A second call gives the first one's
        future.

        Args:
            status: ``success``, ``errored`` or ``interrupted``.
            detail: words for whoever looks at the session later.
            finish: end the session on the server too; None ends one that was created here, and leaves one that was
                joined to its other holders, or whose model an interrupted durable run will come back for.

        Raises:
            InputError: another status.
            WrongLoopError: called from another loop or thread than the service runs on.
        """
        if status not in _STATUSES:
            raise InputError(f"close: status must be one of {', '.join(_STATUSES)}, got {status!r}.")
        loop = self._running_loop()
        if self._closing is None:
            closing: ApiFuture[None] = ApiFuture("close", loop=loop)
            self._closing = closing
            if self._core is None:
                closing.resolve(None)
            else:
                kept = self._joins is not None or self._core.session.kept
                ends = not kept if finish is None else finish
                closes = _close(self._core, status if ends else None, detail, closing)
                self._close_task = loop.create_task(closes, name="tinkex close")
        return self._closing

    async def __aenter__(self) -> ServiceClient:
        core = self._use()
        try:
            await core.session.ready()
        except BaseException as error:
            await self.close("errored" if isinstance(error, Exception) else "interrupted")
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        elif isinstance(error, Exception):
            if self._core is not None:
                self._core.telemetry.log_exception(error)
            await self.close("errored", f"{type(error).__name__}")
        else:
            await self.close("interrupted", type(error).__name__)

    def _use(self) -> Backbone:
        if self._closing is not None:
            raise ClosedError("This ServiceClient is closed. Make a new one.")
        if self._core is None:
            self._running_loop()
            self._core = unattributed(
                Backbone,
                self.config,
                system=self._given_system,
                transport=self._given_transport,
                user_metadata=self._user_metadata,
                display_name=self._display_name,
                joins=self._joins,
            )
        return self._core.use()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._core is not None:
            self._core.require_loop()
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            raise WrongLoopError(
                "ServiceClient: no event loop is running here. Use it in a coroutine: asyncio.run(main())."
            ) from None

    def _from_state(
        self,
        operation: str,
        path: str,
        user_metadata: dict[str, str] | None,
        options: dict[str, Any],
        *,
        optimizer: bool,
    ) -> ApiFuture[TrainingClient]:
        known = ("base_model", "optimizer_config", "weights_access_token")
        for name in options:
            if name not in known:
                raise TypeError(f"{operation}() got an unexpected option {name!r}; known: {', '.join(known)}")
        return create_model_from_state(
            self._use(),
            operation,
            path,
            optimizer=optimizer,
            user_metadata=user_metadata,
            base_model=options.get("base_model"),
            optimizer_config=options.get("optimizer_config"),
            weights_access_token=options.get("weights_access_token"),
        )

    def __repr__(self) -> str:
        state = "closed" if self._closing is not None else "not started" if self._core is None else "open"
        return (
            f"<ServiceClient {self.config.shown_url} {state}>" if hasattr(self, "config") else "<ServiceClient refused>"
        )


async def _close(core: Backbone, status: FinishStatus | None, detail: str | None, closing: ApiFuture[None]) -> None:
    closing.waits_for("telemetry, the session's end and the actors")
    try:
        await core.close(status, detail)
    except Exception as error:
        closing.fail(error)
    else:
        closing.resolve(None)
