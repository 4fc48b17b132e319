"""The actor system: the root of a tree on one event loop. Nothing about it is global."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import random
import traceback
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Hashable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

import msgspec

from tinkex_actors.errors import ClosedError, ConfigError, RestartsExhaustedError, StopTimeoutError
from tinkex_actors.runtime._core.cell import AWAY, DEAD, IDLE, SUSPENDED, Cell, current
from tinkex_actors.runtime._core.children import Children
from tinkex_actors.runtime._core.mailboxes import refuse_for_restart, stopped_error
from tinkex_actors.runtime._core.messages import Handler, Kind, Message, Reply, kind_of
from tinkex_actors.runtime._core.restarts import Policy
from tinkex_actors.runtime._core.scheduler import Scheduler
from tinkex_actors.runtime._core.stacks import await_chain, place_of
from tinkex_actors.runtime._core.threads import give_way
from tinkex_actors.runtime._core.watchdog import Watchdog
from tinkex_actors.runtime.actor import Actor
from tinkex_actors.runtime.child_spec import DEFAULT_MAILBOX, ChildSpec, Mailbox, Restart
from tinkex_actors.runtime.debugging import Debugger
from tinkex_actors.runtime.events import ActorCrashed, DeadLetter, DidNotStop, EventHub, Rejected
from tinkex_actors.runtime.exits import Abandoned, Shutdown, StopReport
from tinkex_actors.runtime.introspection import Explanation, Top, explain, top
from tinkex_actors.runtime.log import Logger
from tinkex_actors.runtime.ref import ActorRef
from tinkex_actors.runtime.registry import Registry
from tinkex_actors.runtime.statistics import ActorTree, Sightings, tree_of
from tinkex_actors.runtime.timers import Deadlines

if TYPE_CHECKING:
    from typing import Self

__all__ = ["ActorSystem", "DeadLetters", "LostMessage"]

A = TypeVar("A", bound=Actor)
T = TypeVar("T")

STOP_SECONDS = 30.0
KEPT_LETTERS = 1000


class LostMessage(msgspec.Struct, frozen=True):
    """A message no handler saw: where it was going, which it was, why it was lost. Its arguments are not kept."""

    path: str
    message: str
    why: str


class DeadLetters:
    """The last 1000 lost messages, and a count of all by actor and message."""

    def __init__(self) -> None:
        self.recent: deque[LostMessage] = deque(maxlen=KEPT_LETTERS)
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, letter: LostMessage) -> None:
        """Keep and count one."""
        self.recent.append(letter)
        self.counts[letter.path, letter.message] += 1

    def __len__(self) -> int:
        return self.counts.total()

    def __iter__(self) -> Any:
        return iter(self.recent)


class _Root(Actor):
    supervises = True


class ActorSystem:
    """A tree of supervised actors; ``async with`` starts and stops it.

    Leaving the block stops every actor; what did not stop raises ``StopTimeoutError``. When restarts are exhausted up
    to the root, the tree is stopped, the block's body is cancelled, and ``RestartsExhaustedError`` is raised out of the
    block.

    Args:
        name: shown in logs; part of a pickled ref.
        seed: of ``system.rng``, the one source of randomness (back-off jitter, user's choice).
        max_restarts: restarts of top-level actors allowed within ``max_seconds``.
        max_seconds: length of the window.
        stop_timeout: seconds that leaving the block may take.
        watchdog: report handlers that hold the loop for longer than this many seconds (a log line and a
            ``HandlerBlocked`` event); None does not watch.
        debug: find tasks that escape the handler which made them or ran in them (a log line and a ``StrayTask`` event).
            Slower; for development and tests.

    Attributes:
        events: publish and subscribe; see ``runtime.events``.
        registry: names for actors.
        dead_letters: messages that were lost.
        rng: ``random.Random(seed)``.
        shared: what several layers of one system share, by any key; each value lives as long as somebody holds it.
    """

    ref_class: type[ActorRef[Any]] = ActorRef
    actor_class = Actor

    def __init__(
        self,
        name: str = "system",
        seed: int = 0,
        *,
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        stop_timeout: float = STOP_SECONDS,
        watchdog: float | None = None,
        debug: bool = False,
    ) -> None:
        self.name = name
        self.rng = random.Random(seed)
        self.events = EventHub()
        self.registry = Registry()
        self.shared: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
        self.dead_letters = DeadLetters()
        self.stop_deadline = math.inf
        self.failure: BaseException | None = None
        self._policy = Policy(max_restarts=max_restarts, max_seconds=max_seconds)
        self._stop_timeout = stop_timeout
        self._watchdog_seconds = watchdog
        self._watchdog: Watchdog | None = None
        self._debug = debug
        self._debugger: Debugger | None = None
        self._root: ActorRef[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._abandoned: list[tuple[Abandoned, asyncio.Future[Any]]] = []
        self._buried = 0
        self._host: asyncio.Task[Any] | None = None
        self._host_cancelled = False
        self._stopping: asyncio.Task[StopReport] | None = None
        self._executors: dict[str, ThreadPoolExecutor] = {}
        self._jobs: dict[asyncio.Future[Any], tuple[str, str, Cell | None]] = {}
        self.sightings = Sightings()
        self._log = Logger("tinkex_actors.runtime", system=name)

    # --- life ------------------------------------------------------------------------------------------------------
    async def start(self) -> Self:
        """Bind the system to the running loop. Idempotent; a stopped system does not start again."""
        if self._root is not None:
            if self._root.state == DEAD:
                raise ClosedError(f"The system {self.name!r} has stopped; make a new one.")
            return self
        loop = self._loop = asyncio.get_running_loop()
        self.context = contextvars.copy_context()
        self.context.run(current.set, None)  # a system started by an actor of another one is nobody's side task
        self.scheduler = Scheduler(loop)
        self.deadlines = Deadlines(loop)
        self.overdue: asyncio.Future[None] = loop.create_future()
        spec = ChildSpec(_Root)
        root = self.ref_class(self, None, "", spec, kind_of(_Root, Actor))
        root.state = IDLE
        root.family = Children(root, self._policy)
        self._root = root
        if self._debug:
            self._debugger = Debugger(self)
        if self._watchdog_seconds is not None:
            self._watchdog = Watchdog(self, self._watchdog_seconds)
        return self

    async def __aenter__(self) -> Self:
        await self.start()
        self._host = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        host, self._host = self._host, None
        report = await self.stop()
        if not report.clean:
            names = "; ".join(map(str, report.abandoned))
            raise StopTimeoutError(
                f"The system {self.name!r} left its block, but this did not stop: {names}. Let it end when it is "
                "cancelled, or allow more with stop_timeout= (a thread cannot be cancelled).",
                actor=report.abandoned[0].path,
                report=report,
            ) from (self.failure or error)
        if self.failure is None:
            return
        if self._host_cancelled and host is not None and host.uncancel() > 0:
            return  # somebody else cancelled the block too: that cancellation goes on
        if error is None or isinstance(error, asyncio.CancelledError):
            raise self.failure

    async def stop(self, timeout: float | None = None) -> StopReport:
        """Stop every actor, right to left, and the executors. Idempotent: later calls get the same report.

        Args:
            timeout: seconds for everything, 30 by default. What does not stop by then is cancelled, then abandoned, and
                named in the report.
        """
        if self._loop is None:
            return StopReport(seconds=0.0, stopped=0)
        if self._stopping is None:
            seconds = self._stop_timeout if timeout is None else timeout
            self._stopping = asyncio.Task(self._stop(seconds), loop=self._loop, name=f"{self.name}.stop")
        return await asyncio.shield(self._stopping)

    async def _stop(self, timeout: float) -> StopReport:
        loop, root, family = self.loop, self.root, self.root.family
        assert family is not None
        began = loop.time()
        self.stop_deadline = began + timeout
        alarm = loop.call_at(self.stop_deadline, self.overdue.set_result, None)
        await family.stop_all()
        root.family = None
        root.state = DEAD
        root.fate = Shutdown("system stopped")
        await self._stop_executors()
        alarm.cancel()
        self.deadlines.close()
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._debugger is not None:
            self._debugger.stop()
        return StopReport(
            seconds=loop.time() - began,
            stopped=self._buried,
            abandoned=tuple(item for item, work in self._abandoned if not work.done()),
            failure=self.failure,
        )

    async def _stop_executors(self) -> None:
        for executor in self._executors.values():
            executor.shutdown(wait=False, cancel_futures=True)
        for job in list(self._jobs):
            remaining = max(self.stop_deadline - self.now(), 0.0)
            if not job.done():
                await asyncio.wait((job,), timeout=remaining)
        for job, (name, what, _) in self._jobs.items():
            self._abandoned.append((Abandoned("executor", f"{name}: {what}"), job))

    def escalate(self, error: RestartsExhaustedError) -> None:
        """The root's children crashed too often: stop everything and raise out of the ``async with`` block."""
        if self.failure is not None:
            return
        self.failure = error
        self.report("system.failed", error=error, tree="\n" + str(self.tree()))
        self.track(self._fail(), f"{self.name}.fail")

    async def _fail(self) -> None:
        await self.stop()
        if self._host is not None and not self._host.done():
            self._host_cancelled = True
            self._host.cancel()

    # --- actors ----------------------------------------------------------------------------------------------------
    async def spawn(
        self,
        cls: type[A],
        *args: Any,
        name: str | None = None,
        restart: Restart = "permanent",
        mailbox: Mailbox = DEFAULT_MAILBOX,
        shutdown: float | None = None,
        **kwargs: Any,
    ) -> ActorRef[A]:
        """Start a top-level actor and return its ref once its ``init`` is done.

        Args:
            cls: the actor class.
            *args: of its ``__init__``, as are other keywords; the same objects are used again at each restart.
            name: unique among top-level actors; None takes the class name and a number.
            restart: ``permanent`` always comes back, ``transient`` after a crash or kill, ``temporary`` never.
            mailbox: bound and policy.
            shutdown: seconds it gets to stop; None means 5, or no limit for supervisors.

        Raises:
            StartFailedError: ``__init__`` or ``init`` raised, or the name is taken.
            ClosedError: the system is not running.
        """
        spec = ChildSpec(cls, args, kwargs, name=name, restart=restart, mailbox=mailbox, shutdown=shutdown)
        return await self._family.start(spec)

    async def start_child(self, spec: ChildSpec) -> ActorRef[Any]:
        """Start a top-level actor from a spec."""
        return await self._family.start(spec)

    @property
    def _family(self) -> Children:
        family = self.root.family
        if family is None or self._stopping is not None:
            raise ClosedError(f"The system {self.name!r} has stopped and starts no more actors.")
        return family

    def kind_of(self, cls: type[Any]) -> Kind:
        """Return what the runtime knows about an actor class in this system."""
        return kind_of(cls, self.actor_class) if self._debugger is None else self._debugger.kind_of(cls)

    @property
    def running(self) -> bool:
        """True from its start until it has stopped."""
        return self._root is not None and self._root.state != DEAD

    @property
    def root(self) -> ActorRef[Any]:
        """The cell above all top-level actors."""
        if self._root is None:
            raise ClosedError(f"The system {self.name!r} has not started; use `async with` or `await system.start()`.")
        return self._root

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop it lives on."""
        if self._loop is None:
            raise ClosedError(f"The system {self.name!r} has not started; use `async with` or `await system.start()`.")
        return self._loop

    def now(self) -> float:
        """The loop's time, in seconds; virtual in tests."""
        return self.loop.time()

    async def sleep(self, seconds: float) -> None:
        """Suspend the caller, on the system's clock; for linked tasks, never for handlers."""
        await asyncio.sleep(seconds)

    def whereis(self, key: str) -> ActorRef[Any] | None:
        """Return the actor at a path (``/service/core``), of a registered key, or the top-level actor of that name."""
        if not key.startswith("/"):
            found = self.registry.lookup(key)
            if found is not None:
                return found
        cell: ActorRef[Any] | None = self.root
        for name in filter(None, key.split("/")):
            cell = cell.family.cells.get(name) if cell is not None and cell.family is not None else None
        return cell

    def tree(self) -> ActorTree:
        """Return a frozen picture of every actor; ``print`` draws it."""
        tree = tree_of(self.root)
        return msgspec.structs.replace(tree, name=self.name)

    def explain(self, ref: ActorRef[Any]) -> Explanation:
        """Say what an actor is at, whom it waits for, whom that one waits for, and so on; ``print`` it.

        Costs nothing until it is asked. Works on actors that have ended, and inside a program that seems to hang.
        """
        return explain(ref)

    async def top(self, seconds: float = 1.0) -> Top:
        """Look for ``seconds`` who handles messages and who uses the processor; ``print`` shows a table.

        The processor's share is sampled by a thread while this runs; in virtual time it is 0, since nothing takes any.
        """
        if not 0.0 < seconds < math.inf:
            raise ConfigError(f"top(seconds) needs a finite number above 0, got {seconds!r}.")
        return await top(self, seconds)

    # --- blocking work ---------------------------------------------------------------------------------------------
    async def blocking(
        self, function: Callable[..., T], *args: Any, executor: str = "default", workers: int = 1, niceness: int = 0
    ) -> T:
        """Run ``function(*args)`` on a thread and wait for it.

        Args:
            function: may block; holding the GIL for long still delays the loop.
            *args: its arguments.
            executor: name of the thread pool; pools are made at first use and owned by the system.
            workers: threads of the pool, if this call makes it.
            niceness: by how much these threads, and those they start, give way to the loop's, if this call makes the
                pool and the platform is Linux: for work that would fill every processor.

        Cancelling the caller does not stop the thread; stopping the system waits for it until the deadline.
        """
        if self._stopping is not None and self.root.state == DEAD:
            raise ClosedError(f"The system {self.name!r} has stopped and runs no more blocking calls.")
        pool = self._executors.get(executor)
        if pool is None:
            if workers < 1:
                raise ConfigError(f"workers= of executor {executor!r} must be 1 or more, got {workers!r}.")
            prefix = f"{self.name}.{executor}"
            pool = ThreadPoolExecutor(workers, thread_name_prefix=prefix, initializer=give_way, initargs=(niceness,))
            self._executors[executor] = pool
        context = contextvars.copy_context()
        job = self.loop.run_in_executor(pool, functools.partial(context.run, function, *args))
        self._jobs[job] = (executor, str(getattr(function, "__qualname__", function)), current.get())
        job.add_done_callback(self._job_done)
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if not job.cancelled() or (caller is not None and caller.cancelling()):
                raise
            text = f"The system {self.name!r} stopped before executor {executor!r} came to this blocking call."
            raise ClosedError(text) from None

    def blocking_work_of(self, cell: Cell) -> tuple[str, ...]:
        """Return what an actor, its handler or a task of its own, has running or queued on the system's threads."""
        return tuple(what for _, what, owner in self._jobs.values() if owner is cell)

    def _job_done(self, job: asyncio.Future[Any]) -> None:
        self._jobs.pop(job, None)
        if not job.cancelled():
            job.exception()

    # --- what the cells report -------------------------------------------------------------------------------------
    def report(self, event: str, *, error: BaseException | None = None, **values: object) -> None:
        """Write one error line, with the error's traceback if there is one.

        A logger that fails is the loop's exception handler's business, never the supervised actors'.
        """
        try:
            if error is not None:
                # Formatted here: some renderers of exc_info print local variables, which may hold secrets.
                values["error"] = repr(error)
                values["exception"] = "".join(traceback.format_exception(error))
            self._log.error(event, **values)
        except Exception as failure:
            self.loop.call_exception_handler({"message": f"logging {event!r} failed", "exception": failure})

    def track(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a lifecycle operation as a task the system holds on to."""
        task = asyncio.Task(coroutine, loop=self.loop, name=name, context=self.context.copy())
        self._tasks[task] = None
        task.add_done_callback(self._untrack)
        return task

    def _untrack(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            text = f"{task.get_name()} of system {self.name!r} failed inside the runtime"
            self.loop.call_exception_handler({"message": text, "exception": error, "task": task})

    def refuse(self, cell: Cell, item: Message | Reply) -> None:
        """A message for an actor that takes none: it has stopped, is about to, or restarts and fails fast."""
        if cell.capacity == AWAY and cell.fate is None:
            refuse_for_restart(cell, item)
        elif isinstance(item, Reply):
            item.fail(stopped_error(cell))
        else:
            self.lost(cell, item[0].name, "actor stopped")

    def drop(self, cell: Cell, item: Message | Reply, why: str) -> None:
        """A message dropped by a mailbox's policy; a call fails with ``MailboxFullError``."""
        if isinstance(item, Reply):
            item.fail(cell.full_error())
            self.lost(cell, item.message[0].name, why)
        else:
            self.lost(cell, item[0].name, why)

    def lost(self, cell: Cell, message: str, why: str) -> None:
        """Record a dead letter."""
        path = cell.path
        self.dead_letters.add(LostMessage(path, message, why))
        if self.events.active:
            self.events.publish(DeadLetter(path=path, at=self.now(), message=message, why=why))

    def rejected(self, cell: Cell, handler: Handler[..., Any], error: BaseException) -> None:
        """A handler said no."""
        if self.events.active:
            self.events.publish(Rejected(path=cell.path, at=self.now(), message=handler.name, error=error))

    def loop_is_ending(self) -> bool:
        """Whether every task of the loop is being cancelled: ``asyncio.run`` does so with what was left open."""
        return all(task.cancelling() for task in asyncio.all_tasks(self.loop))

    def crashed(self, cell: Cell, error: BaseException, where: str) -> None:
        """A crash: one log line, one event."""
        self.report(
            "actor.crashed",
            actor=cell.path,
            where=where,
            incarnation=cell.incarnation,
            error=error,
        )
        if self.events.active:
            self.events.publish(
                ActorCrashed(path=cell.path, at=self.now(), incarnation=cell.incarnation, where=where, error=error)
            )

    def escaped(self, cell: Cell, where: str, error: BaseException) -> None:
        """A BaseException on its way out of the loop: the actor is over, nothing of it is run again."""
        cell.state = SUSPENDED
        cell.more().last_crash = repr(error)
        self.report("actor.escaped", actor=cell.path, where=where, incarnation=cell.incarnation, error=error)

    def abandon(self, path: str, what: str, task: asyncio.Task[Any]) -> None:
        """Something ignored its cancellation."""
        stack = tuple(f"{place_of(frame)} {frame.f_code.co_name}" for frame in await_chain(task))
        self._abandoned.append((Abandoned(path, what, stack), task))
        self.report("actor.did_not_stop", actor=path, what=what, frames=stack)
        if self.events.active:
            self.events.publish(DidNotStop(path=path, at=self.now(), what=what, stack=stack))

    def forget(self, cell: Cell) -> None:
        """An actor was buried."""
        self._buried += 1
        self.registry.forget(cell)
