"""What the clients of one service stand on: the link, the desks, and the tree of actors around them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tinkex_actors.actors.byte_gate import ByteGate
from tinkex_actors.actors.courier import CourierDesk
from tinkex_actors.actors.dispatcher import DispatcherDesk, Peers
from tinkex_actors.actors.dispatcher.words import described
from tinkex_actors.actors.ledger import Ledger
from tinkex_actors.actors.link import Link
from tinkex_actors.actors.poller import PollerDesk
from tinkex_actors.actors.promise import Promise
from tinkex_actors.actors.recovery import RecoveryDesk
from tinkex_actors.actors.sequencer import Discipline, SequencerDesk
from tinkex_actors.actors.session import SessionDesk, finish
from tinkex_actors.actors.telemetry import Spool, TelemetryDesk, spool_name
from tinkex_actors.actors.tree import ServiceTree
from tinkex_actors.config.redaction import is_secret_header
from tinkex_actors.errors import ClosedError, RestartsExhaustedError, WrongLoopError
from tinkex_actors.log_levels import parse_log_levels
from tinkex_actors.machines.admission import AdmissionLimits
from tinkex_actors.machines.admission.backoff import ADAPTIVE, PARITY, Backoff
from tinkex_actors.redaction import hide
from tinkex_actors.runtime import ActorSystem, Shutdown
from tinkex_actors.runtime.log import Logger, set_log_levels
from tinkex_actors.transport import SampleSlots, open_transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tinkex_actors.actors.explanation import Explanation
    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.config import Config
    from tinkex_actors.transport import Transport
    from tinkex_actors.types import ClientConfigResponse, FinishStatus
    from tinkex_actors.wire.routes import Route

__all__ = ["Backbone"]

_DRAIN_SECONDS = 5.0
_log = Logger("tinkex_actors.service")


class Backbone:
    """One service: made on its loop, started in the background, stopped once.

    Args:
        config: settings.
        system: the actors' home; None makes one of our own, which ends with the service.
        transport: carries the requests; None opens what the base URL names.
        user_metadata: free notes for the session.
        display_name: what people see.
        joins: a session to go on with; None creates one.
    """

    def __init__(
        self,
        config: Config,
        *,
        system: ActorSystem | None,
        transport: Transport | None,
        user_metadata: dict[str, str] | None,
        display_name: str | None,
        joins: str | None = None,
    ) -> None:
        self.config = config
        self.loop = asyncio.get_running_loop()
        self._owns_system = system is None
        self.system = ActorSystem(name="tinkex") if system is None else system
        self.transport = transport or open_transport(config.base_url, system=self.system, config=config)
        self.link = Link(self.transport, config=config, system=self.system)
        self.telemetry = TelemetryDesk(enabled=config.telemetry, now=self.loop.time, spool=_spool(config))
        self.link.on_trouble = self.telemetry.note
        self.ledger = Ledger(self.system, loop=self.loop, stall_after=config.stall_after, telemetry=self.telemetry)
        self.session = SessionDesk(
            ledger=self.ledger,
            user_metadata=user_metadata,
            display_name=display_name,
            on_flags=self._apply,
            joins=joins,
        )
        self.poller = PollerDesk()
        self.courier = CourierDesk(ledger=self.ledger)
        self.recovery = RecoveryDesk()
        backoff, peers = _window(self.system, config)
        self.dispatcher = DispatcherDesk(
            ledger=self.ledger,
            poller=self.poller,
            backoff=backoff,
            peers=peers,
            draw=self.system.rng.random,
            publish=self.system.events.publish,
            now=self.loop.time,
        )
        self.dispatcher.tells_cancels = lambda: self.session.dynamic.sample_cancel_enabled
        self._apply(self.session.flags)
        self.tree = ServiceTree(
            session=self.session,
            poller=self.poller,
            courier=self.courier,
            dispatcher=self.dispatcher,
            telemetry=self.telemetry,
            recovery=self.recovery,
            ledger=self.ledger,
            link=self.link,
        )
        self._closed: str | None = None
        self._closing = False
        self._unhide = [hide(secret) for secret in _secrets(config)]
        set_log_levels(parse_log_levels(config.log, "Config.log"))
        self.booted = self.loop.create_task(self._boot(), name="tinkex service start")
        self._guard = self.loop.create_task(self._leave_with_the_loop(), name="tinkex service guard")

    def use(self) -> Backbone:
        """Refuse a call from elsewhere, or after the end.

        Raises:
            WrongLoopError: called from another loop or thread.
            ClosedError: the service was closed or has given up.
        """
        self.require_loop()
        if self._closed is not None:
            raise ClosedError(f"{self._closed} Make a new ServiceClient.")
        return self

    def require_loop(self) -> None:
        """Refuse a call from elsewhere.

        Raises:
            WrongLoopError: called from another loop or thread.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not self.loop:
            raise WrongLoopError(
                "This client belongs to the event loop it was first used on, and this call came from "
                + ("a thread without one" if loop is None else "another one")
                + ". Make a ServiceClient for each loop, or hand the call over with loop.call_soon_threadsafe."
            )

    def trainer(self, model_id: str) -> SequencerDesk:
        """The model's sequencer: the one it has, as an errand that is begun again finds it, or a new one."""
        if (known := self.tree.trainer(model_id)) is not None:
            return known
        desk = SequencerDesk(
            model_id,
            ledger=self.ledger,
            poller=self.poller,
            gate=self.training_gate,
            discipline=self._discipline(),
            publish=self.system.events.publish,
            now=self.loop.time,
        )
        self.tree.add_trainer(desk)
        return desk

    async def result_of(self, promise: Any, route: Route, future: ApiFuture[Any]) -> Any:
        """Wait for a promise's result; ``future`` explains itself by it meanwhile."""
        done: asyncio.Future[Any] = self.loop.create_future()

        def resolve(result: Any) -> None:
            if not done.done():
                done.set_result(result)

        def fail(error: Exception) -> None:
            if not done.done():
                done.set_exception(error)

        request_id = promise.request_id
        requests = future.ids.setdefault("request_ids", [])
        if request_id not in requests:  # an errand that is begun again is given the same one
            requests.append(request_id)
        self.poller.watch(Promise(request_id, route, on_result=resolve, on_error=fail, now=self.loop.time()))
        self.poller.follow(future, request_id)
        try:
            return await done
        finally:
            future.waits_for("the server's answer")
            if not done.done() or done.cancelled():
                self.poller.drop(request_id)

    def explain(self) -> Explanation:
        """Everything pending, and how the session and the back-off window stand."""
        now = self.loop.time()
        view = self.dispatcher.statistics()
        notes = [self.session.note(now), self.link.speech.note()]
        if view.phase != "steady":
            notes.append(f"sampling: {described('waiting', view, 0, now)}")
        return self.ledger.explain(*notes)

    async def close(self, status: FinishStatus | None, detail: str | None) -> None:
        """End the session, the actors and the connections, in this order, also where the actors have ended before.

        A ``status`` of None leaves the session to its other holders.
        """
        if self._closing:
            return
        self._closing = True
        self._closed = "This ServiceClient is closed."
        await asyncio.wait([self.booted])
        self.ledger.fail_all(ClosedError("The ServiceClient was closed while this was pending."))
        try:
            self.telemetry.session_ended()
            if self.tree.running:
                self.telemetry.closing = True
                drained = self.telemetry.drained(self.loop)
                await asyncio.wait([drained], timeout=_DRAIN_SECONDS)
            if status is not None:
                await finish(self.session, self.link, status, detail)
        finally:
            await self._tear_down()
            self._guard.cancel()

    async def _leave_with_the_loop(self) -> None:
        # A program that never closes its service ends all the same, without noise: `asyncio.run` cancels what is left.
        try:
            await self.loop.create_future()
        finally:
            if not self._closing:
                self._closing = True
                self._closed = "This ServiceClient ended with its event loop."
                self.telemetry.session_ended()
                await self._tear_down()

    def _apply(self, flags: ClientConfigResponse) -> None:
        # The flags come before the first training or sampling request, so nothing is inside the gates they replace.
        self.link.compress = flags.proto_compress_fwdbwd
        self.link.billing.window = flags.billing_exception_max_pause_duration_sec
        self.link.keyring.follow(
            exchanging=flags.pjwt_auth_enabled, from_command=flags.credential_default_source == "credential_cmd"
        )
        self.training_gate = ByteGate(flags.fwdbwd_dispatch_bytes_semaphore_size)
        self.poller.gate = ByteGate(flags.inflight_response_bytes_semaphore_size)
        in_flight = flags.sample_max_concurrent_requests
        self.dispatcher.by_session = flags.sample_use_retrieve_futures
        if isinstance(self.transport, SampleSlots) and not flags.sample_use_retrieve_futures:
            in_flight = min(in_flight, self.transport.sample_slots)
        self.dispatcher.admission.limits = AdmissionLimits(
            in_flight=in_flight, prompt_bytes=flags.sample_dispatch_bytes_semaphore_size
        )

    def _discipline(self) -> Discipline:
        config = self.config
        return Discipline(
            parallel_chunks=config.training_order is None and self.session.flags.parallel_fwdbwd_chunks,
            awaits_results=config.training_order == "results",
            resends=config.resend_training,
            pause_deadline=config.pause_deadline,
        )

    async def _boot(self) -> None:
        try:
            if self._owns_system:
                await self.system.start()
            service = await self.tree.start(self.system)
            service.stopped.add_done_callback(self._tree_ended)
        except Exception as error:
            self._closed = f"This ServiceClient could not start: {error}"
            self.ledger.fail_all(error)

    def _tree_ended(self, stopped: asyncio.Future[Any]) -> None:
        if self._closed is not None or stopped.cancelled():
            return
        reason = stopped.result()
        cause = reason.why if isinstance(reason, Shutdown) else None
        error: Exception
        if isinstance(cause, RestartsExhaustedError):
            self._closed = "This ServiceClient has given up: its actors crashed too often."
            error = RestartsExhaustedError(
                f"The service's actors crashed more often than their supervisor allows, so this operation will not end "
                f"by itself: {cause} Make a new ServiceClient; for training, create a client from the last checkpoint.",
                actor=cause.actor,
            )
            error.__cause__ = cause
        else:
            self._closed = f"The actors of this ServiceClient were stopped ({reason})."
            error = ClosedError(
                f"The service's actors were stopped while this was pending ({reason}). Leave the service's `async "
                "with` before you stop the ActorSystem it lives in."
            )
        _log.error("service.ended_early", reason=str(reason))
        self.telemetry.log_exception(error)
        self.ledger.fail_all(error)
        self.dispatcher.give_back()

    async def _tear_down(self) -> None:
        try:
            await self.tree.stop()
            self.dispatcher.give_back()
            await self._keep_telemetry()
        finally:
            try:
                await self.transport.close()
            finally:
                if self._owns_system:
                    await self.system.stop()
                self.link.keyring.forget()
                for take_back in self._unhide:
                    take_back()

    async def _keep_telemetry(self) -> None:
        """Put on disk what telemetry could not send, for the next process."""
        if self.telemetry.has_remains:
            try:
                # On the same thread as the actor's own reading and writing, and so after it.
                await self.system.blocking(self.telemetry.leave, executor="telemetry")
            except ClosedError:  # the system was stopped under the service
                self.telemetry.leave()


def _spool(config: Config) -> Spool | None:
    """Where telemetry waits while a server is away; an engine in this process is never away."""
    if not config.base_url.startswith(("http://", "https://")):
        return None
    return Spool(config.state_dir / "telemetry" / spool_name(config.base_url, config.api_key))


def _window(system: ActorSystem, config: Config) -> tuple[Backoff, Peers]:
    """The window of this server and credential, and the services of the system that share it."""
    provider = config.credential_provider
    identity = spool_name(config.base_url, config.api_key), config.credential_command, provider and id(provider)
    policy = ADAPTIVE if config.parity == "python" else PARITY
    window: Backoff = system.shared.setdefault(("sampling back-off", *identity, config.parity), Backoff(policy))
    peers: Peers = system.shared.setdefault(("sampling desks", *identity, config.parity), Peers())
    return window, peers


def _secrets(config: Config) -> Iterator[str | None]:
    yield config.api_key
    yield config.cf_access_client_secret
    yield from dict(config.proxy_headers).values()
    yield from (value for name, value in dict(config.default_headers).items() if is_secret_header(name))
