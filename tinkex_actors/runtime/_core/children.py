"""An actor's children: starting, restarting and stopping them. All lifecycle decisions of a child are taken here.

Who does what. ``child_exited`` hears that a child ended by itself (crash, kill, own stop). ``stop`` is asked for from
outside. Both start at most one operation per child (``cell.lifecycle``); group strategies share one operation
(``_group``). Operations are never cancelled: what they wait for is ``cell.task``, which a later stop or kill cancels
(``interrupt``), and after each wait they look at ``cell.fate`` and ``closing``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from tinkex_actors.errors import ActorStoppedError, RestartsExhaustedError, StartFailedError
from tinkex_actors.runtime._core.cell import DEAD, HALTING, IDLE, READY, STARTING, SUSPENDED, Cell
from tinkex_actors.runtime._core.lifecycle import (
    at_rest,
    begin,
    begin_now,
    bury,
    end_of,
    halt,
    interrupt,
    notify_restarted,
    rest,
    undo,
    wait_for,
)
from tinkex_actors.runtime._core.mailboxes import close_and_drain, close_mailbox, set_aside
from tinkex_actors.runtime._core.restarts import Policy, RestartLog, affected, restarts
from tinkex_actors.runtime.child_spec import ChildSpec
from tinkex_actors.runtime.events import ActorRestarted, SupervisorGaveUp
from tinkex_actors.runtime.exits import Crashed, ExitReason, Killed, Shutdown

if TYPE_CHECKING:
    from tinkex_actors.runtime.ref import ActorRef

__all__ = ["Children"]

DEFAULT_POLICY = Policy()
GROUP_RESTART = Shutdown("restarted with a sibling")


class Children:
    """The children of one cell, in start order.

    Args:
        owner: the parent.
        policy: its rules; ordinary actors supervise one_for_one, 3 restarts in 5 seconds.
    """

    __slots__ = (
        "_group",
        "_log",
        "_numbers",
        "_pending",
        "_settled",
        "_starting",
        "cells",
        "closing",
        "owner",
        "policy",
    )

    def __init__(self, owner: Cell, policy: Policy = DEFAULT_POLICY) -> None:
        self.owner = owner
        self.policy = policy
        self.cells: dict[str, ActorRef[Any]] = {}
        self.closing = False
        self._log = RestartLog()
        self._numbers = 0
        self._group: asyncio.Task[None] | None = None
        self._pending: dict[Cell, ExitReason] = {}
        self._starting = 0
        self._settled: asyncio.Future[None] | None = None

    # --- starting --------------------------------------------------------------------------------------------------
    async def start(self, spec: ChildSpec) -> ActorRef[Any]:
        """Start a child and return its ref once ``init`` is done.

        Raises:
            StartFailedError: the name is taken, or the child failed in ``__init__`` or ``init``.
            ActorStoppedError: the parent is stopping.
        """
        cell = self._enter(spec)
        try:
            if cell.kind.has_init:
                await self._begin_first(cell)
            else:
                try:
                    begin_now(cell)
                except BaseException as error:
                    await undo(cell, error)
        except BaseException as error:
            bury(cell, cell.fate or Crashed(error))
            raise
        return cell

    async def _begin_first(self, cell: Cell) -> None:
        self._starting += 1
        try:
            await begin(cell)
        finally:
            self._starting -= 1
            if not self._starting and self._settled is not None:
                self._settled.set_result(None)
                self._settled = None

    def _enter(self, spec: ChildSpec) -> ActorRef[Any]:
        owner = self.owner
        if self.closing or owner.state == DEAD:
            raise ActorStoppedError(f"{owner.path} is stopping and starts no more children.", actor=owner.path)
        system = owner.system
        kind = system.kind_of(spec.cls)
        name = spec.name
        if name is None:
            name = self._free_name(kind.stem)
        elif name in self.cells:
            raise StartFailedError(
                f"{owner.path} already has a child named {name!r}; choose another name.", actor=owner.path
            )
        cell = system.ref_class(system, owner, name, spec, kind)
        self.cells[name] = cell
        return cell

    def _free_name(self, stem: str) -> str:
        while True:
            self._numbers += 1
            name = f"{stem}-{self._numbers}"
            if name not in self.cells:
                return name

    # --- a child ended by itself ------------------------------------------------------------------------------------
    def child_exited(self, cell: Cell, reason: ExitReason) -> None:
        """Hear that a child crashed, was killed or stopped itself, and start what follows."""
        if cell.fate is not None or cell.lifecycle is not None or cell.state >= STARTING:
            # Already on its way: a start fails by it, a kill cuts the stop short, everything else is settled.
            if cell.state == STARTING:
                cell.ending = reason
                interrupt(cell)
            elif cell.state == HALTING and isinstance(reason, Killed):
                interrupt(cell)
            return
        cell.state = HALTING
        cell.ending = reason
        if self.closing:
            return
        if not restarts(cell.spec.restart, reason.abnormal):
            self._operate(cell, self._leave(cell, reason))
            return
        set_aside(cell)
        if self.policy.strategy == "one_for_one":
            if cell.kind.has_init or self.policy.backoff is not None:
                self._operate(cell, self._restart_one(cell, reason))
            else:
                self.owner.system.scheduler.restart(cell)
        else:
            self._pending[cell] = reason
            if self._group is None:
                self._group = self.owner.system.track(self._restart_group(), f"{self.owner.name}.restart")

    def _operate(self, cell: Cell, operation: Coroutine[Any, Any, None]) -> None:
        task = cell.lifecycle = self.owner.system.track(operation, f"{cell.name}.lifecycle")
        task.add_done_callback(lambda task: _operated(cell, task))

    async def _leave(self, cell: Cell, reason: ExitReason) -> None:
        """A child that is not to come back."""
        await self._end(cell, reason, reason)
        self._auto_shutdown(cell)

    async def _end(self, cell: Cell, fate: ExitReason, ending: ExitReason) -> None:
        await halt(cell, ending, grace=0.0 if ending.abnormal else cell.spec.grace)
        bury(cell, fate)

    def _auto_shutdown(self, cell: Cell) -> None:
        rule = self.policy.auto_shutdown
        if rule == "never" or not cell.spec.significant or self.closing:
            return
        if rule == "any_significant" or not any(other.spec.significant for other in self.cells.values()):
            self.owner.exit(Shutdown(f"significant child {cell.name} ended"))

    # --- restarting --------------------------------------------------------------------------------------------------
    def restart_now(self, cell: Cell) -> None:
        """Start a child again at once if nothing has to be waited for; called by the pump, outside any handler."""
        reason = cell.ending
        assert reason is not None
        if self._stopping(cell) or not at_rest(cell):
            self._operate(cell, self._restart_one(cell, reason))
            return
        allowed, _ = self._admit_restart(cell)
        rest(cell)
        if not allowed:
            self._give_up(cell, reason)
            return
        cell.incarnation += 1
        try:
            begin_now(cell)
        except BaseException as error:
            self._operate(cell, self._restart_one(cell, reason, undo(cell, error)))
            return
        self._restarted(cell, reason)

    async def _restart_one(
        self, cell: Cell, reason: ExitReason, begun: Coroutine[Any, Any, None] | None = None
    ) -> None:
        """Restart a child until it has begun, or not any more. ``begun``: what is left of a beginning."""
        while True:
            if begun is None:
                allowed, delay = self._admit_restart(cell)
                grace = 0.0 if reason.abnormal else cell.spec.grace
                await halt(cell, reason, grace=grace, to_return=allowed and not self._stopping(cell))
                if self._stopping(cell):
                    await self._end(cell, cell.fate or reason, reason)
                    return
                if not allowed:
                    self._give_up(cell, reason)
                    return
                if delay > 0.0:
                    await wait_for(cell, asyncio.sleep(delay))
                    if self._stopping(cell):
                        await self._end(cell, cell.fate or reason, reason)
                        return
                cell.incarnation += 1
                begun = begin(cell)
            failure = await self._begin_again(cell, reason, begun)
            if failure is None:
                return
            reason, begun = failure, None

    async def _begin_again(self, cell: Cell, reason: ExitReason, begun: Coroutine[Any, Any, None]) -> ExitReason | None:
        """Await the start of the next incarnation; return why it failed, or None."""
        try:
            await begun
        except StartFailedError as error:
            if cell.fate is None:
                cell.more().last_crash = error.message
                self.owner.system.crashed(cell, error, "init")
            return Crashed(error)
        self._restarted(cell, reason)
        return None

    def _restarted(self, cell: Cell, reason: ExitReason) -> None:
        events = self.owner.system.events
        if events.active:
            events.publish(
                ActorRestarted(path=cell.path, at=self.owner.system.now(), incarnation=cell.incarnation),
            )
        notify_restarted(cell, reason)

    async def _restart_group(self) -> None:
        """Stop right to left and start left to right whoever the strategy names; begin again if one fails meanwhile."""
        try:
            while self._pending and not self.closing:
                if self._starting:  # as in OTP, first whoever is being started comes to an end with that
                    self._settled = self.owner.system.loop.create_future()
                    await self._settled
                    continue
                failed, self._pending = self._pending, {}
                group = self._members(failed)
                delay, exhausted = 0.0, None
                for cell in failed:
                    allowed, wait = self._admit_restart(cell)
                    delay = max(delay, wait)
                    if not allowed:
                        exhausted = cell
                await self._halt_group(group, failed, to_return=exhausted is None)
                if exhausted is not None:
                    self._give_up(exhausted, failed[exhausted])
                    return
                if delay > 0.0 and group and not self.closing:
                    await wait_for(group[0], asyncio.sleep(delay))
                await self._start_group(group, failed)
        finally:
            self._group = None

    def _members(self, failed: dict[Cell, ExitReason]) -> list[ActorRef[Any]]:
        names = affected(self.policy.strategy, list(self.cells), [cell.name for cell in failed])
        # A child that is leaving on its own account is not brought back.
        return [self.cells[name] for name in names if self.cells[name].lifecycle is None]

    async def _halt_group(self, group: list[ActorRef[Any]], failed: dict[Cell, ExitReason], *, to_return: bool) -> None:
        for cell in reversed(group):
            if cell.state == DEAD or cell.lifecycle is not None:
                continue
            reason = failed.get(cell) or GROUP_RESTART
            leaves = cell.spec.restart == "temporary" and cell not in failed
            if cell not in failed and not leaves and to_return:
                set_aside(cell)
            grace = 0.0 if reason.abnormal else cell.spec.grace
            await halt(cell, reason, grace=grace, to_return=to_return and not leaves)
            if cell.fate is not None or leaves:
                await self._end(cell, cell.fate or reason, reason)

    async def _start_group(self, group: list[ActorRef[Any]], reasons: dict[Cell, ExitReason]) -> None:
        for cell in group:
            if self.closing:
                return
            if cell.state != SUSPENDED:
                continue
            cell.incarnation += 1
            failure = await self._begin_again(cell, reasons.get(cell) or GROUP_RESTART, begin(cell))
            if failure is not None:
                if cell.fate is not None:
                    bury(cell, cell.fate)
                    continue
                self._pending[cell] = failure
                return

    def _admit_restart(self, cell: Cell) -> tuple[bool, float]:
        """Count a restart; return whether it is allowed, and how long to wait before it."""
        system, policy = self.owner.system, self.policy
        now = system.now()
        rare = cell.more()
        if rare.log is None:
            rare.log = RestartLog()
        own: RestartLog = rare.log
        allowed = (own if policy.per_child else self._log).allow(policy, now)
        u = system.rng.random() if policy.backoff is not None else 0.0
        return allowed, own.delay(policy.backoff, now, u)

    def _give_up(self, cell: Cell, reason: ExitReason) -> None:
        """The child crashed too often: it ends, and, unless the policy keeps it to the child, so does its parent."""
        policy, owner = self.policy, self.owner
        cause = _cause(reason)
        error = RestartsExhaustedError(
            f"{cell.path} ended {policy.max_restarts + 1} times within {policy.max_seconds} s; its supervisor "
            f"{owner.path} allows {policy.max_restarts} restarts. The last reason: {cause or reason!r}. "
            "Fix the cause, or raise max_restarts.",
            actor=cell.path,
        )
        error.__cause__ = cause
        if owner.system.events.active:
            owner.system.events.publish(
                SupervisorGaveUp(path=owner.path, at=owner.system.now(), child=cell.path, error=str(cause or reason))
            )
        cell.lifecycle = None
        bury(cell, Shutdown(error))
        if policy.remove_exhausted or self.closing:
            self._auto_shutdown(cell)
        elif owner.parent is None:
            owner.system.escalate(error)
        else:
            owner.more().last_crash = f"{type(error).__name__}: {error}"
            owner.exit(Shutdown(error) if owner.kind.cls.supervises else Crashed(error))

    def _stopping(self, cell: Cell) -> bool:
        return self.closing or cell.fate is not None

    # --- stopping ----------------------------------------------------------------------------------------------------
    def stop(self, cell: Cell, reason: ExitReason, *, drain: bool = False) -> None:
        """Stop a child for good, as asked from outside. Idempotent; does not wait.

        Args:
            cell: the child.
            reason: given to ``on_stop``.
            drain: let it handle what is queued before, within its ``shutdown`` seconds.
        """
        if cell.state == DEAD or (drain and close_and_drain(cell, reason)):
            return
        if cell.fate is not None:
            if isinstance(reason, Killed):
                interrupt(cell)
            return
        close_mailbox(cell, reason)
        if cell.lifecycle is not None or cell.state == STARTING:
            if cell.state in (STARTING, SUSPENDED):
                interrupt(cell)
            return
        if (cell.state == SUSPENDED and cell.family is None) or (cell.state in (IDLE, READY) and at_rest(cell)):
            bury(cell, reason)
            return
        if cell.state == HALTING and self._group is not None:
            return  # the group restart has it in hand, and buries it
        cell.state = HALTING
        self._operate(cell, self._end(cell, reason, reason))

    def refuse_starts(self) -> None:
        """Start no more children, and give up on those that are starting."""
        self.closing = True
        for cell in self.cells.values():
            if cell.state == STARTING:
                interrupt(cell)

    async def stop_all(self) -> None:
        """Stop every child, right to left, each within its own deadline."""
        self.closing = True
        reason = Shutdown("its supervisor stops")
        for cell in self.cells.values():
            if cell.state in (STARTING, SUSPENDED) and (cell.lifecycle is not None or self._group is not None):
                interrupt(cell)
        if self._group is not None:
            await asyncio.wait((self._group,))
        for cell in reversed(list(self.cells.values())):
            if cell.state == DEAD:
                continue
            if cell.state == STARTING and cell.lifecycle is None:
                interrupt(cell)
            if cell.state in (HALTING, SUSPENDED) and cell.lifecycle is None:
                # Nobody is at work on it: it crashed, or a group restart left it, while the parent was closing.
                fate = cell.fate or cell.ending or reason
                close_mailbox(cell, fate)
                self._operate(cell, self._end(cell, fate, cell.ending or fate))
            else:
                self.stop(cell, reason)
            if cell.state != DEAD:
                await end_of(cell)

    def removed(self, cell: Cell) -> None:
        """Free a buried child's name."""
        del self.cells[cell.name]
        self._pending.pop(cell, None)


def _operated(cell: Cell, task: asyncio.Task[None]) -> None:
    """Bury a cell whose operation was cut off, for somebody may wait for its end.

    The end of the loop cancels operations, as it does every task; an exit of a hook (``sys.exit`` in ``init``) leaves
    through them.
    """
    if cell.lifecycle is task and cell.state != DEAD:
        error = None if task.cancelled() else task.exception()
        bury(cell, Killed("the event loop ended") if error is None else Crashed(error))


def _cause(reason: ExitReason) -> BaseException | None:
    if isinstance(reason, Crashed):
        return reason.error
    if isinstance(reason, Shutdown) and isinstance(reason.why, BaseException):
        return reason.why
    return None
