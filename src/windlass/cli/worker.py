"""``windlass worker``: becomes the supervisor. Does not import the application; the zygote does."""

from __future__ import annotations

import os
from typing import cast

import click

from windlass.cli.common import app_target
from windlass.cli.logs import configure_logs
from windlass.core import caps
from windlass.core.ids import new_id
from windlass.settings import Settings, load_settings
from windlass.settings.values import READERS
from windlass.worker.layout import check_layout
from windlass.worker.process.messages import Launch
from windlass.worker.process.supervisor import Supervisor

__all__ = ["worker"]

COUNT = click.IntRange(1, caps.SLOTS)


@click.command()
@click.option(
    "-q",
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME[=WEIGHT]",
    help="A queue to serve, or a pattern such as 'report-*'. Repeat it, or separate names by commas. Default: all.",
)
@click.option("--strict", is_flag=True, help="Empty the queues in the order given, instead of by weight.")
@click.option(
    "--pool",
    "pools",
    multiple=True,
    metavar="QUEUES:SLOTS",
    help="Slots reserved for these queues, in addition to -q; or the name of a pool in the settings. May be repeated.",
)
@click.option("-c", "--threads", type=COUNT, help="Threads for sync jobs in each process.")
@click.option("--async-slots", type=COUNT, help="How many async jobs run at once in each process.")
@click.option("-p", "--processes", type=click.IntRange(1, caps.PROCESSES), help="Worker processes.")
@click.option("--max-jobs", type=click.IntRange(1, 2**31 - 1), help="Replace a process after this many jobs.")
@click.option("--max-memory", metavar="SIZE", help="Replace a process that uses this much memory, such as 512MiB.")
@click.option("--reload", is_flag=True, help="Restart when source files change; for development.")
@click.option(
    "--http-port", type=click.IntRange(0, 65_535), help="Serve /livez, /readyz and /api/v1/stats on this port."
)
@click.option(
    "--http-host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="The address for --http-port."
)
@click.option("--burst", is_flag=True, help="Exit when no job is ready or running.")
@click.option(
    "-t", "--shutdown-timeout", metavar="DURATION", help="How long running jobs may take to finish. Default: 25s."
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option("--quiet-jobs", is_flag=True, help="Write no line for a job that ends without an error.")
@click.pass_context
def worker(
    context: click.Context,
    queues: tuple[str, ...],
    strict: bool,
    pools: tuple[str, ...],
    threads: int | None,
    async_slots: int | None,
    processes: int | None,
    max_jobs: int | None,
    max_memory: str | None,
    reload: bool,
    http_port: int | None,
    http_host: str,
    burst: bool,
    shutdown_timeout: str | None,
    log_level: str,
    quiet_jobs: bool,
) -> None:
    """Run jobs until stopped.

    Signals: TERM and INT stop it gracefully, a second one at once. QUIT stops it at once. TSTP stops it from claiming
    jobs. HUP reloads the code, one process at a time. USR1 and TTIN write every stack to stderr.

    Exit codes: 0 stopped, 2 wrong option or the application cannot be imported, 3 the store cannot be used, 69 no
    process could begin its work, 130 second INT, 131 QUIT, 143 second TERM.
    """

    def configure(settings: Settings) -> None:
        # The worker processes say what is to be said of the store; the supervisor opens it too and would repeat it.
        configure_logs(settings, log_level, hushed=["windlass.engine"])

    configure(load_settings().settings)
    check_layout(queues, strict, pools)  # a wrong option ends here, before anything is started
    launch = Launch(
        app=app_target(context),
        queues=queues,
        strict=strict,
        pools=pools,
        threads=threads,
        async_slots=async_slots,
        processes=processes,
        max_jobs=max_jobs,
        max_memory=_read("max_memory", max_memory),
        burst=burst,
        shutdown_timeout=_read("shutdown_timeout", shutdown_timeout),
        log_level=log_level,
        quiet_jobs=quiet_jobs or None,
        group=new_id(),
        supervisor_pid=os.getpid(),
    )
    http = None if http_port is None else (http_host, http_port)
    context.exit(Supervisor(launch, http=http, reload=reload, on_settings=configure).run())


def _read(key: str, text: str | None) -> int | None:
    """Read an option that is a setting too, as the setting is read."""
    return None if text is None else cast(int, READERS[key](text, f"--{key.replace('_', '-')}"))
