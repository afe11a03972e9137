"""The ``windlass`` command: finds the command that was asked for, runs it, and turns errors into exit codes.

A command's module is imported when the command runs, so ``windlass --help`` costs nothing but this file. A command
returns its exit code, or None for 0. Invariants: a WindlassError is one line on stderr and never a traceback; stdout
carries only what was asked for.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

import click

from windlass import __version__
from windlass.cli.common import GLOBAL_OPTIONS, Commands, Session
from windlass.cli.exits import INTERRUPTED, exit_code
from windlass.cli.output import note
from windlass.core.errors import WindlassError

__all__ = ["COMMANDS", "cli", "main"]

# Name: (where it is, what it does). The order is that of the help.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "worker": ("windlass.cli.worker:worker", "Run jobs until stopped."),
    "enqueue": ("windlass.cli.enqueue:enqueue", "Store one job."),
    "jobs": ("windlass.cli.jobs:jobs", "List, show, watch, retry, cancel and delete jobs."),
    "dead": ("windlass.cli.dead:dead", "List, group, retry, edit, discard, export and load dead jobs."),
    "workflows": ("windlass.cli.workflows:workflows", "List, show, watch, draw, cancel and retry workflows."),
    "batches": ("windlass.cli.batches:batches", "List, show and watch batches."),
    "queues": ("windlass.cli.queues:queues", "List, pause, resume, limit and clear queues."),
    "workers": ("windlass.cli.workers:workers", "List workers, stop them, or stop them from claiming jobs."),
    "circuits": ("windlass.cli.circuits:circuits", "List, open and close circuits."),
    "locks": ("windlass.cli.locks:locks", "List and release locks."),
    "limits": ("windlass.cli.limits:limits", "List limits and how full they are."),
    "top": ("windlass.cli.top:top", "Watch queues, workers and running jobs, live."),
    "stats": ("windlass.cli.stats:stats", "Show numbers: jobs by state, totals, and each queue."),
    "retry-plan": ("windlass.cli.retry_plan:retry_plan", "Show when a failing job would be retried."),
    "explain": ("windlass.cli.explain:explain", "Say why a job is not running."),
    "doctor": ("windlass.cli.doctor:doctor", "Check the store, the settings and the workers, and repair."),
    "check": ("windlass.cli.check:check", "Check the jobs and settings of the application; for CI."),
    "config": ("windlass.cli.config:config", "Show every setting and where it comes from."),
    "migrate": ("windlass.cli.migrate:migrate", "Upgrade the tables of the store to this version."),
    "bench": ("windlass.cli.bench:bench", "Measure how fast this machine runs jobs."),
}


class Cli(Commands):
    """The root command: knows its commands by name and loads the one that is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return _with_global_options(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        session = Session()
        context = super().make_context(info_name, args, parent, **{**extra, "obj": session})
        context.call_on_close(session.close)
        return context

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command line and exit with its code."""
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except WindlassError as error:
            _say(str(error))
            code = exit_code(error)
        except click.ClickException as error:
            _say(error.format_message())
            context = getattr(error, "ctx", None)
            if isinstance(context, click.Context):
                click.echo(f"Try '{context.command_path} --help'.", err=True)
            code = error.exit_code
        except click.Abort:
            code = INTERRUPTED
        sys.exit(code if isinstance(code, int) else 0)


def _with_global_options(command: click.Command) -> click.Command:
    own = {option for param in command.params for option in param.opts}
    command.params += [option for option in GLOBAL_OPTIONS if not own & set(option.opts)]
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _with_global_options(each)
    return command


def _say(message: str) -> None:
    note(f"windlass: {' '.join(message.split())}")


cli = Cli(
    "windlass",
    help="Run background jobs and manage them. -A, --url and --json may also come after the command.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[*GLOBAL_OPTIONS],
)
cli = click.version_option(__version__, message="windlass %(version)s")(cli)


def main() -> None:
    """Be the ``windlass`` command."""
    cli(prog_name="windlass")


if __name__ == "__main__":
    main()
