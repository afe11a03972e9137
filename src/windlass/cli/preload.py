"""What the zygote runs: load the application, then fork workers from it. Started by the supervisor, never by hand.

``python -m windlass.cli.preload FD``: FD is the socket to the supervisor. This is where a worker process is composed of
the application's parts, because nothing below row 5 knows the application.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import msgspec

from windlass import logs
from windlass.app import Windlass
from windlass.cli.loading import load_app
from windlass.cli.logs import configure_logs
from windlass.cli.output import count
from windlass.core.errors import ConfigError, WindlassError
from windlass.logs import Log
from windlass.settings import Settings, load_settings, mask_url
from windlass.worker.attempt.execute import prepare
from windlass.worker.attempt.run import Prepared
from windlass.worker.children import ChildHost, ChildLine, serve_child
from windlass.worker.layout import alone_plan, lay_out
from windlass.worker.process.farewell import end
from windlass.worker.process.life import ControlLine, serve_worker
from windlass.worker.process.messages import (
    Alone,
    Asked,
    Failed,
    ForkWorker,
    Full,
    Hello,
    Launch,
    Overran,
    decode_launch,
    encode,
)
from windlass.worker.process.title import set_title
from windlass.worker.process.zygote import HEARD, Zygote, ZygoteFork
from windlass.worker.recycle import FORK_COST, resident
from windlass.worker.table import SlotTable
from windlass.worker.wire import Line
from windlass.worker.worker import Worker, WorkerOptions

__all__ = ["main"]

log = Log("windlass.worker")


def main() -> None:
    """Load, say hello, fork until the supervisor goes away."""
    leave_signals_to_the_supervisor()
    control = Line(int(sys.argv[1]))
    try:
        run(control, decode_launch(control.receive()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the supervisor has gone
    end(0, join=False)  # a thread that the application started when it was imported would be waited for


def leave_signals_to_the_supervisor() -> None:
    """Let one that is sent to the whole process group not end us while we load. What the application forks hears it."""
    before = {number: signal.signal(number, unheard) for number in (*HEARD, signal.SIGINT)}

    def hear() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is unheard:
                signal.signal(number, handler)

    os.register_at_fork(after_in_child=hear)


def unheard(number: int, frame: object) -> None:
    """Do nothing with a signal, and let a program that is started have its own way with it."""


def run(control: Line, launch: Launch) -> None:
    set_title("zygote", launch.app)
    try:
        configure_logs(load_settings().settings, launch.log_level)  # for what is said while the application is imported
        app = load_app(launch.app)
        settings = settings_for(app, launch)
        crews = lay_out(settings, launch.queues, launch.strict, launch.pools)
        check_memory(app, settings, launch)
        check_threads(launch.app)
        engine = app.engine.info
        if not app.has_url:
            raise ConfigError(
                f"application {launch.app!r} has client= for its store, and the processes of a worker make their own "
                "connections: write the URL of the same server into it, or WINDLASS_URL"
            )
        if not engine.shared:
            raise ConfigError(
                f"{mask_url(settings.url)} lives in one process, and a worker has several; "
                "use sqlite:///path.db, or run the jobs in your own process with a test harness"
            )
    except WindlassError as error:
        control.send(encode(Failed(str(error), 2)))
        return
    configure_logs(settings, launch.log_level)
    logs.ask_root()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a reader of our log or a store that goes away must not end us
    durability = "" if engine.durability == "unknown" else f" ({engine.durability})"  # a server says it when asked
    notes = [
        f"{engine.name} {engine.target}{durability}, url from {app.loaded.origin['url']}",
        f"{count(len(app.registry), 'job')} of {launch.app}, {'; '.join(map(str, crews))}",
        *app.loaded.warnings,
        *lost_threads(launch.app),
    ]
    if app.loaded.inherited is not None:
        log.warning("%s", app.loaded.inherited)
    control.send(encode(Hello(settings, crews, tuple(notes))))

    def run_worker(order: ForkWorker, control: Line, table: int, fork: ZygoteFork) -> int:
        set_title("worker" if order.crew is not None else "worker (jobs run alone)", launch.app)
        logs.start_relay()
        line = ControlLine(control)
        options = WorkerOptions(
            pools=(alone_plan(crews),) if order.crew is None else crews[order.crew].pools,
            burst=launch.burst,
            alone=order.crew is None,
            quiet=order.quiet,
            group=launch.group,
            supervisor_pid=launch.supervisor_pid,
        )
        worker = Worker(
            app.engine,
            app.registry,
            settings,
            app.events,
            app.middlewares,
            options,
            clock=app.clock,
            table=SlotTable(table, order.slots),
            fork=fork,
            on_alone=lambda in_ms: line.send(Alone(in_ms)),
            on_full=lambda: line.send(Full()),
            on_overrun=lambda: line.send(Overran()),
            on_control=lambda word: line.send(Asked(word)),
            hooks=app.hooks,
        )
        return serve_worker(worker, line)

    def lookup(name: str) -> Prepared | None:
        spec = app.registry.find(name)
        return None if spec is None else prepare(spec, app.middlewares, app.registry.circuits)

    def run_child(line: Line) -> int:
        set_title("child", launch.app)
        logs.start_relay()
        serve_child(ChildHost(app.engine, app.clock, settings, app.events, ChildLine(line)), lookup)
        return 0

    Zygote(control, run_worker, run_child).serve()


def lost_threads(app: str) -> list[str]:
    """What to say of threads that the application started while it was imported."""
    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if not (names := [name for name in names if not name.startswith("windlass")]):
        return []
    return [
        f"importing {app} started threads ({', '.join(names)}); worker processes are forks and do not have them. Start "
        "them in a handler of windlass.events.WorkerStarted instead; a QueueListener of logging is one of these"
    ]


def check_threads(target: str) -> None:
    """Refuse threads that are none: one that blocks would stop the renewal of leases. Raises ConfigError."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if (gevent is not None and gevent.is_module_patched("threading")) or (
        eventlet is not None and eventlet.is_monkey_patched("thread")
    ):
        name = "eventlet" if gevent is None else "gevent"
        raise ConfigError(
            f"application {target!r} puts {name} in place of threads, and a worker renews leases and watches timeouts "
            "in threads of its own: do not patch the standard library in what the worker imports"
        )


def check_memory(app: Windlass, settings: Settings, launch: Launch) -> None:
    """Refuse a bound that an idle worker is above already: it would be replaced for ever. Raises ConfigError."""
    limit, idle = settings.max_memory, resident() + FORK_COST
    if limit is not None and limit <= idle:
        where = "--max-memory" if launch.max_memory is not None else app.loaded.where("max_memory")
        raise ConfigError(
            f"max_memory is {limit / 2**20:.0f} MiB ({where}), and a worker of {launch.app} has about "
            f"{idle / 2**20:.0f} MiB when it is idle; allow at least {idle * 2 / 2**20:.0f} MiB"
        )


def settings_for(app: Windlass, launch: Launch) -> Settings:
    """The application's settings, with what the command line says about this worker."""
    changes = {
        "threads": launch.threads,
        "async_slots": launch.async_slots,
        "processes": launch.processes,
        "max_jobs": launch.max_jobs,
        "max_memory": launch.max_memory,
        "shutdown_timeout": launch.shutdown_timeout,
        "quiet_jobs": launch.quiet_jobs,
    }
    return msgspec.structs.replace(app.settings, **{key: value for key, value in changes.items() if value is not None})


if __name__ == "__main__":
    main()
