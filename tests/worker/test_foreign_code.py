"""Code of the application is called in many places. Whatever it raises there, jobs end and the worker goes on."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fleet import Fleet
from inside import end_of, worker_of
from msgspec import Struct

from kit.waiting import PATIENCE, until
from windlass import Constant, JobContext, JobInfo, Retry, State, Windlass, events, on
from windlass.core.foreign import is_ctrl_c, name_of, said
from windlass.errors import PayloadError
from windlass.worker import worker
from windlass.worker.attempt.run import JobRun
from windlass.worker.host import RunHost


@pytest.fixture
def app() -> Iterator[Windlass]:
    with Windlass("memory://", lease=5, renew="100ms", reap="50ms", attempts=1, threads=1, async_slots=1) as made:
        yield made


def run_and_look_on(app: Windlass, body: Callable[[], object], kind: str, **options: object) -> JobInfo:
    """Run a job that misbehaves, then one that does not, in the same slot; give the end of the first."""

    @app.job(name="after", retry=0)
    def after() -> str:
        return "done"

    @app.job(name="aafter", retry=0)
    async def aafter() -> str:
        return "done"

    async def abody() -> object:
        return body()

    bad = app.job(name="bad", **{"retry": 0, **options})(body if kind == "thread" else abody)
    with worker_of(app):
        end = end_of(bad.enqueue())
        assert end_of((after if kind == "thread" else aafter).enqueue()).result == "done"
    return end


def leave(*_: object) -> str:
    sys.exit("no further")


def interrupt(*_: object) -> str:
    raise KeyboardInterrupt


def exhaust(*_: object) -> str:
    raise MemoryError


def recurse(self: object) -> str:
    return str(self)


class HostileText(str):
    """Text whose own methods fail."""

    __slots__ = ()

    def partition(self, sep: str) -> tuple[str, str, str]:
        sys.exit("no parts")

    __getitem__ = __len__ = __format__ = partition  # type: ignore[assignment]


def error_with(**members: object) -> type[Exception]:
    return type("Odd", (Exception,), members)


class AnswersForItself(type):
    """A class that decides itself what is an instance of it."""

    def __instancecheck__(cls, instance: object) -> bool:
        sys.exit("no instances")


class Undecided(Exception, metaclass=AnswersForItself):
    """An error that rules cannot be asked about."""


ODD_ERRORS = {
    "str exits": error_with(__str__=leave),
    "str is interrupted": error_with(__str__=interrupt),
    "str has no memory": error_with(__str__=exhaust),
    "str recurses": error_with(__str__=recurse),
    "str gives no text": error_with(__str__=lambda self: 7),
    "str gives hostile text": error_with(__str__=lambda self: HostileText("odd")),
    "str is enormous": error_with(__str__=lambda self: "x\0\ud800" * 2_000_000),
    "repr exits": error_with(__repr__=leave),
    "class is hidden": error_with(__class__=property(leave)),
    "module is no text": error_with(__module__=property(leave)),
    "cause is hidden": error_with(__cause__=property(leave)),
    "notes are hidden": error_with(__notes__=property(leave)),
    "retry_after exits": error_with(retry_after=property(leave)),
    "del exits": error_with(__del__=leave),
    "eq exits": error_with(__eq__=leave, __hash__=leave),
    "no exception": SystemExit,
    "interrupt": KeyboardInterrupt,
    "generator exit": GeneratorExit,
    "no memory": MemoryError,
    "recursion": RecursionError,
    "stop": StopIteration,
}


@pytest.mark.parametrize("redact", [(), ("secret",)], ids=["open", "redacted"])
@pytest.mark.parametrize("kind", ["thread", "loop"])
@pytest.mark.parametrize("odd", ODD_ERRORS)
def test_whatever_a_job_raises_is_its_failure(
    app: Windlass, odd: str, kind: str, redact: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", leave)  # what __del__ raises comes there
    app.circuit("outside", trip_on=(Undecided, "some.Error"), failures=100)
    app.on(events.Event)(lambda event: None)

    def body(secret: str = "hidden") -> object:
        raise ODD_ERRORS[odd]("odd")

    rules = [on(Undecided).discard(), on(ValueError).dead("no value")]
    end = run_and_look_on(app, body, kind, redact=redact if kind == "thread" else (), circuit="outside", retry=rules)
    assert (end.state, len(end.errors)) == (State.DEAD, 1)
    gc.collect()


class Proxy:
    """What a lazy proxy is outside of its scope: every look at it fails."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        sys.exit("unbound")


class ClosesBadly:
    def __init__(self) -> None:
        self.made = self.make()
        next(self.made)

    @staticmethod
    def make() -> Iterator[int]:
        try:
            yield 1
        finally:
            sys.exit("not closed")


@dataclass
class Guarded:
    """A record that fails when it is read."""

    name: str = "x"

    def __getattribute__(self, name: str) -> object:
        if name == "name":
            sys.exit("not to be read")
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("kind", ["thread", "loop"])
@pytest.mark.parametrize(
    ("make", "state"),
    [(Proxy, State.DONE), (Guarded, State.DONE), (lambda: ClosesBadly().made, State.DEAD)],
    ids=["proxy", "record", "generator"],
)
def test_a_result_that_cannot_be_read_costs_the_result_only(
    app: Windlass, make: Callable[[], object], state: State, kind: str
) -> None:
    end = run_and_look_on(app, lambda: make(), kind)
    assert (end.state, end.result) == (state, None)


class Refusing(Struct):
    """A type of an argument that runs code when it is restored."""

    code: int

    def __post_init__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            RESTORING[self.code]()


RESTORING: dict[int, Callable[[], object]] = {0: leave, 1: interrupt, 2: exhaust, 3: lambda: recurse_for_ever()}


def recurse_for_ever() -> object:
    return recurse_for_ever()


@pytest.mark.parametrize("kind", ["thread", "loop"])
@pytest.mark.parametrize(
    ("code", "reason"), [(0, "undecodable payload"), (1, "undecodable payload"), (2, None), (3, "undecodable payload")]
)
def test_an_argument_that_cannot_be_restored_buries_its_job_and_lack_of_memory_is_an_attempt(
    app: Windlass, kind: str, code: int, reason: str | None
) -> None:
    def load(value: Refusing) -> None: ...

    async def aload(value: Refusing) -> None: ...

    job = app.job(name="load", retry=0)(load if kind == "thread" else aload)
    with worker_of(app):
        ends = [end_of(job.enqueue(Refusing(code))) for _ in range(2)]
    assert [(end.state, end.reason, len(end.errors)) for end in ends] == [(State.DEAD, reason, 1)] * 2


def decided_by(retry: object) -> Callable[[Windlass, str], JobInfo]:
    def body() -> None:
        raise ConnectionError("down")

    return lambda app, kind: run_and_look_on(app, body, kind, retry=retry)


class Nameless:
    """A function that has no name and cannot be shown."""

    def __init__(self, do: Callable[..., object]) -> None:
        self._do = do

    def __call__(self, *args: object) -> object:
        return self._do(*args)

    def __getattr__(self, name: str) -> object:
        if threading.current_thread() is threading.main_thread():
            raise AttributeError  # where it is registered
        sys.exit("no names")

    __repr__ = leave


@pytest.mark.parametrize("kind", ["thread", "loop"])
@pytest.mark.parametrize("do", [leave, interrupt, exhaust])
@pytest.mark.parametrize("where", ["after", "backoff", "class", "module"])
def test_a_rule_that_fails_is_told_and_the_job_waits_as_without_it(
    app: Windlass,
    where: str,
    do: Callable[..., str],
    kind: str,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "script_that_exits.py").write_text("raise SystemExit(2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    wait = Constant("1ms")
    retry = {
        "after": lambda: Retry(2, backoff=wait, rules=[on(ConnectionError).after(Nameless(do))]),
        "backoff": lambda: Retry(2, backoff=Nameless(do)),
        "class": lambda: Retry(2, backoff=wait, rules=[on(Undecided).discard()]),
        "module": lambda: Retry(2, backoff=wait, rules=[on("script_that_exits.Error").discard()]),
    }[where]()
    end = decided_by(retry)(app, kind)
    assert (end.state, len(end.errors)) == (State.DEAD, 2)
    assert "script_that_exits" in caplog.text if where == "module" else "uses the default wait instead" in caplog.text


KINDS = [
    events.WorkerStarted, events.JobStarted, events.JobSucceeded, events.JobFailed, events.JobRetrying, events.JobDead,
    events.JobWithdrawn, events.ResultDropped, events.WorkerStopped,
]  # fmt: skip


@pytest.mark.parametrize("do", [leave, interrupt, exhaust])
def test_a_subscriber_that_exits_changes_nothing(
    app: Windlass, do: Callable[..., str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from windlass import Discard

    # As in a worker process, where the terminal's Ctrl-C is the supervisor's business.
    monkeypatch.setattr("signal.getsignal", lambda number: __import__("signal").SIG_IGN)
    for kind in KINDS:
        app.on(kind)(Nameless(do))

    @app.job(name="drops", retry=0)
    def drops() -> None:
        raise Discard("not needed")

    @app.job(name="gives")
    def gives() -> object:
        return object()

    @app.job(name="fails", retry=Retry(2, backoff=Constant("1ms")))
    async def fails() -> None:
        raise ValueError

    with worker_of(app):
        ends = [end_of(job.enqueue()) for job in (drops, gives, fails)]
    assert [end.state for end in ends] == [State.CANCELLED, State.DONE, State.DEAD]
    assert len(ends[2].errors) == 2
    for kind in KINDS:
        assert f"failed on {kind.__name__}" in caplog.text


@pytest.mark.parametrize("do", [leave, interrupt, exhaust])
def test_a_hook_that_exits_changes_nothing(
    app: Windlass, do: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []
    app.on_retry(lambda info: do())
    app.on_dead(lambda info: do())
    app.on_dead(lambda info: called.append(info.id))

    @app.job(name="fails", retry=Retry(2, backoff=Constant("1ms")))
    def fails() -> None:
        raise ValueError

    with worker_of(app):
        ids = [end_of(fails.enqueue()).id for _ in range(2)]
    assert called == ids
    assert caplog.text.count("of on_retry failed on job") == 2


class Restored(Struct):
    """A result that runs code when it is read back."""

    broken: bool

    def __post_init__(self) -> None:
        if self.broken and threading.current_thread().name == "windlass-hooks":
            sys.exit("unreadable")


def test_hooks_of_other_jobs_are_called_after_one_whose_record_cannot_be_read(app: Windlass) -> None:
    called: list[str] = []
    app.on_dead(lambda info: called.append(info.name))

    @app.job(name="fails", retry=0)
    def fails(value: Restored) -> None:
        raise ValueError

    with worker_of(app):
        end_of(fails.enqueue(Restored(True)))
        end_of(fails.enqueue(Restored(False)))
    assert called[-1] == "fails"


def exits_before(ctx: JobContext) -> Iterator[None]:
    sys.exit("before")
    yield


def exits_after(ctx: JobContext) -> Iterator[None]:
    yield
    sys.exit("after")


def yields_twice(ctx: JobContext) -> Iterator[None]:
    yield
    yield


def never_yields(ctx: JobContext) -> Iterator[None]:
    return
    yield


async def exits_async(ctx: JobContext) -> AsyncIterator[None]:
    yield
    sys.exit("after")


@pytest.mark.parametrize(
    ("middleware", "kinds", "error"),
    [
        (exits_before, ("thread", "loop"), "SystemExit"),
        (exits_after, ("thread", "loop"), "SystemExit"),
        (yields_twice, ("thread", "loop"), "RuntimeError"),
        (never_yields, ("thread", "loop"), "RuntimeError"),
        (exits_async, ("loop",), "SystemExit"),
    ],
)
def test_a_middleware_that_fails_is_the_failure_of_the_job_it_wraps(
    app: Windlass, middleware: Callable[..., Iterator[None]], kinds: tuple[str, ...], error: str
) -> None:
    app.middleware("execute")(middleware)
    jobs = []
    if "thread" in kinds:
        jobs.append(app.job(name="thread", retry=0)(lambda: None))

    @app.job(name="loop", retry=0)
    async def loop() -> None: ...

    jobs.append(loop)
    with worker_of(app):
        ends = [end_of(job.enqueue()) for job in jobs for _ in range(2)]
    assert {(end.state, end.errors[-1].type) for end in ends} == {(State.DEAD, error)}


@pytest.mark.parametrize("do", [leave, interrupt, exhaust])
@pytest.mark.parametrize("part", ["filter", "handler"])
def test_a_log_handler_or_filter_that_fails_fails_no_job_and_no_thread_of_ours(
    app: Windlass,
    part: str,
    do: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    handler = logging.Handler()
    handler.emit = do  # type: ignore[method-assign, assignment]
    if part == "filter":
        handler.addFilter(lambda record: do())  # type: ignore[arg-type, return-value]
    root = logging.getLogger()
    root.addHandler(handler)
    try:

        def body() -> None:
            raise ValueError("the job's own words")

        for kind in ("thread", "loop"):
            end = run_and_look_on(Windlass("memory://", threads=1, async_slots=1), body, kind)
            assert (end.state, end.errors[-1].type) == (State.DEAD, "ValueError")
    finally:
        root.removeHandler(handler)
    assert "a log handler or filter failed" in capsys.readouterr().err


def test_an_error_that_strikes_a_thread_between_two_jobs_costs_no_job(app: Windlass) -> None:
    idents: list[int] = []

    @app.job(name="quick", retry=0)
    def quick() -> str:
        idents.append(threading.get_ident())
        return "done"

    with worker_of(app) as worker:
        end_of(quick.enqueue())
        until(lambda: not any(pool.threads.busy for pool in worker._pools))
        for _ in range(3):  # what a time limit does that a job forgot to stop
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(idents[0]), ctypes.py_object(SystemExit))
            assert end_of(quick.enqueue()).result == "done"
    assert set(idents) == {idents[0]}


def test_a_recovery_rule_that_cannot_be_resolved_keeps_no_other_from_its_work(caplog: pytest.LogCaptureFixture) -> None:
    class Moody(ModuleType):
        def __getattr__(self, name: str) -> object:
            sys.exit("ask me later")

    sys.modules["moody"] = Moody("moody")
    try:
        with Windlass("memory://", lease=5, renew="100ms", reap="20ms") as app:
            app.dead.recover(on=("moody.Error",), after=0.01)
            app.dead.recover(on=(ValueError,), after=0.01, attempts=1)
            runs: list[int] = []

            @app.job(name="fails", retry=0)
            def fails() -> None:
                runs.append(1)
                raise ValueError

            fails.enqueue()
            with worker_of(app):
                until(lambda: len(runs) == 2)
    finally:
        del sys.modules["moody"]
    assert "moody.Error" in caplog.text


def test_warnings_that_are_errors_stop_nothing(app: Windlass) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        def body() -> object:
            async def forgotten() -> None: ...

            return forgotten()

        assert run_and_look_on(app, body, "thread").state is State.DEAD


def test_hooks_for_uncaught_errors_are_never_needed(app: Windlass, monkeypatch: pytest.MonkeyPatch) -> None:
    caught: list[object] = []
    monkeypatch.setattr(threading, "excepthook", caught.append)
    monkeypatch.setattr(sys, "excepthook", lambda *args: caught.append(args))
    for kind in ("thread", "loop"):
        assert run_and_look_on(Windlass("memory://"), leave, kind).errors[-1].type == "SystemExit"
    assert caught == []


class Tripping(RunHost):
    """A host of runs whose own code around a body fails, once for each job."""

    error: BaseException = RuntimeError("tripped")
    late = False  # whether it fails after the body

    def __init__(self, *args: Any, **options: Any) -> None:
        self.tripped: set[str] = set()
        super().__init__(*args, **options)

    def trip(self, run: JobRun) -> None:
        if run.lease.id not in self.tripped:
            self.tripped.add(run.lease.id)
            raise self.error

    def run_in_thread(self, run: JobRun, slot: int) -> None:
        if not self.late:
            self.trip(run)
        super().run_in_thread(run, slot)
        self.trip(run)

    async def run_on_loop(self, run: JobRun, slot: int) -> None:
        if not self.late:
            self.trip(run)
        await super().run_on_loop(run, slot)
        self.trip(run)


@pytest.mark.parametrize("error", [RuntimeError("tripped"), SystemExit(1), MemoryError(), asyncio.CancelledError()])
@pytest.mark.parametrize("kind", ["thread", "loop"])
@pytest.mark.parametrize("late", [False, True])
def test_a_fault_of_the_worker_itself_costs_no_attempt_of_a_job_that_had_not_begun(
    app: Windlass, monkeypatch: pytest.MonkeyPatch, late: bool, kind: str, error: BaseException
) -> None:
    def body() -> str:
        return "done"

    async def abody() -> str:
        return "done"

    job = app.job(name="quick", retry=0)(body if kind == "thread" else abody)
    monkeypatch.setattr(worker, "RunHost", type("Tripping", (Tripping,), {"error": error, "late": late}))
    with worker_of(app):
        ends = [end_of(job.enqueue()) for _ in range(2)]
    assert [(end.result, end.attempt, len(end.errors)) for end in ends] == [("done", 1, 0)] * 2


# -- in child processes ------------------------------------------------------------------------------------

CHILDREN = """
import asyncio, sys
from windlass import Windlass

app = Windlass({url!r}, renew="200ms", lease=5, reap="200ms")
process = dict(executor="process", retry=0)


class Silent(Exception):
    def __str__(self):
        sys.exit("not a word")


async def leave():
    sys.exit(3)


@app.job(name="raises", **process)
def raises():
    raise Silent()


@app.job(name="exits", **process)
def exits():
    sys.exit(3)


@app.job(name="in_a_task", **process)
async def in_a_task():
    async with asyncio.TaskGroup() as group:
        group.create_task(leave())


@app.job(name="in_a_callback", **process)
async def in_a_callback():
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await asyncio.sleep(60)


@app.job(name="interrupted", **process)
async def interrupted():
    raise KeyboardInterrupt


@app.job(name="stops", **process)
async def stops():
    asyncio.get_running_loop().stop()
    await asyncio.sleep(60)


@app.job(name="cancels", **process)
async def cancels():
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(60)


@app.job(name="hoards", **process)
def hoards():
    raise MemoryError
"""

ENDS = {
    "raises": "fleet_jobs.Silent",
    "exits": "SystemExit",
    "in_a_task": "SystemExit",
    "in_a_callback": "SystemExit",
    "interrupted": "KeyboardInterrupt",
    "stops": "RuntimeError",
    "cancels": "asyncio.exceptions.CancelledError",
    "hoards": "MemoryError",
}


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as made:
        (tmp_path / "fleet_jobs.py").write_text(CHILDREN.format(url=made.url))
        yield made


def test_what_a_job_raises_in_a_process_of_its_own_is_an_answer_and_no_crash(processes: Fleet) -> None:
    ids = {name: processes.enqueue(name, "default", 1)[0] for name in ENDS}
    processes.run("--burst", "-c", "2")
    ends = {name: processes.app.get(job) for name, job in ids.items()}
    # Each may have run again by now: these are its errors, and a crash would be one too.
    assert {name: {error.type for error in end.errors} for name, end in ends.items() if end} == {
        name: {kind} for name, kind in ENDS.items()
    }


# -- in the program of a user ------------------------------------------------------------------------------


def test_ctrl_c_reaches_the_person_who_pressed_it_through_a_subscriber(app: Windlass) -> None:
    job = app.job(name="quick")(lambda: None)
    app.on(events.JobEnqueued)(interrupt)
    with pytest.raises(KeyboardInterrupt):
        job.enqueue()


@pytest.mark.parametrize("leaves", [SystemExit, KeyboardInterrupt])
def test_ctrl_c_and_an_exit_reach_the_person_through_a_middleware(app: Windlass, leaves: type[BaseException]) -> None:
    """An exit before anything is stored; Ctrl-C, which is the person's, also behind that."""

    def leaving(call: object) -> Iterator[None]:
        if leaves is SystemExit:
            sys.exit(4)
        yield
        raise leaves

    job = app.job(name="quick")(lambda: None)
    app.middleware("enqueue")(leaving)
    with pytest.raises(leaves):
        job.enqueue()


ARMED: list[int] = []


class Reads(Struct):
    """A type that is restored when the person presses Ctrl-C."""

    def __post_init__(self) -> None:
        if ARMED:
            raise KeyboardInterrupt


def test_ctrl_c_reaches_the_person_while_values_are_encoded_and_decoded() -> None:
    from windlass.core.codec import encode_result

    app = Windlass("memory://")

    @app.job(name="takes")
    def takes(value: Reads) -> None: ...

    payload = takes.bind(Reads()).new.payload.encode()
    ARMED.append(1)
    with pytest.raises(KeyboardInterrupt):
        takes.spec.signature.decode(payload)
    ARMED.clear()

    @dataclass
    class Stops:
        name: str = ""

        def __getattribute__(self, name: str) -> object:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_result(Stops(), 1_000)
    app.close()


def test_an_exit_of_a_subscriber_is_told_and_the_job_is_enqueued(
    app: Windlass, caplog: pytest.LogCaptureFixture
) -> None:
    job = app.job(name="quick")(lambda: None)
    app.on(events.JobEnqueued)(leave)
    assert job.enqueue().state is State.READY
    assert "failed on JobEnqueued" in caplog.text


def test_a_key_function_that_fails_in_words_too_is_named(app: Windlass) -> None:
    from windlass import Once

    def key() -> str:
        raise ODD_ERRORS["str exits"]

    job = app.job(name="quick", once=Once(key))(lambda: None)
    with pytest.raises(PayloadError, match="the key function failed: Odd: <the message cannot be shown>"):
        job.enqueue()


def test_only_the_main_thread_of_a_program_that_listens_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    seen: list[bool] = [is_ctrl_c(KeyboardInterrupt()), is_ctrl_c(SystemExit())]
    thread = threading.Thread(target=lambda: seen.append(is_ctrl_c(KeyboardInterrupt())))
    thread.start()
    thread.join(PATIENCE)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        seen.append(is_ctrl_c(KeyboardInterrupt()))
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [True, False, False, False]


def test_names_and_words_are_given_of_anything() -> None:
    assert name_of(Nameless(leave)) == "<Nameless>"
    assert said(ODD_ERRORS["str exits"]()) == "<the message cannot be shown>"
    assert type(said(ODD_ERRORS["str gives hostile text"]())) is str
