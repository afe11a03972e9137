"""``windlass check``: would a worker be able to run the jobs of this application? For CI.

Imports the application and touches no store. Errors and warnings fail the check; advice does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from windlass.cli.common import Session, pass_session
from windlass.cli.exits import FAILED
from windlass.cli.findings import ADVICE, ERROR, OK, WARNING, report
from windlass.cli.output import count
from windlass.core.errors import ConfigError
from windlass.core.recovery import rules_in
from windlass.engines.base import Finding
from windlass.worker.layout import lay_out, serves

if TYPE_CHECKING:
    from windlass.app import Windlass
    from windlass.jobs.spec import JobSpec

__all__ = ["check"]


@click.command()
@pass_session
def check(session: Session) -> int:
    """Import the application and check its jobs, middleware and settings. Exits 1 if it finds errors or warnings."""
    app = session.app()
    specs = [app.registry.get(name) for name in app.registry.names()]
    findings = [*_settings(app), *_registry(session.app_target(), specs), *_middleware(app, specs), *_pools(app, specs)]
    findings += _recovery(app)
    findings += [finding for spec in specs for finding in _job(spec)]
    report(session, findings)
    return FAILED if any(finding.level in (ERROR, WARNING) for finding in findings) else 0


def _settings(app: Windlass) -> Iterator[Finding]:
    for warning in app.loaded.warnings:
        yield Finding("settings", WARNING, warning)


def _registry(target: str | None, specs: list[JobSpec]) -> Iterator[Finding]:
    if specs:
        yield Finding("jobs", OK, f"{count(len(specs), 'job')} in {target}")
    else:
        yield Finding(
            "jobs",
            ERROR,
            f"{target} has no jobs",
            "import the modules that define them in the one that makes the application",
        )


def _middleware(app: Windlass, specs: list[JobSpec]) -> Iterator[Finding]:
    if all(spec.is_async for spec in specs):
        return
    try:
        app.middlewares.wrap(lambda ctx, args, kwargs: None)
    except ConfigError as error:
        yield Finding("middleware", ERROR, str(error))


def _pools(app: Windlass, specs: list[JobSpec]) -> Iterator[Finding]:
    """Jobs that no worker with these settings would ever run."""
    if not app.settings.pools:
        return
    crews = lay_out(app.settings, (), strict=False, pools=())
    for queue in sorted({spec.queue for spec in specs}):
        if not serves(crews, queue):
            jobs = ", ".join(spec.name for spec in specs if spec.queue == queue)
            yield Finding(
                f"queue {queue}",
                WARNING,
                f"no pool of {app.loaded.where('pools')} serves it; its jobs are {jobs}",
                f"add it to the queues of a pool, or run another worker with -q {queue}",
            )


def _recovery(app: Windlass) -> Iterator[Finding]:
    for rule in (*app.registry.recoveries, *rules_in(app.settings.recover)):
        for name in rule.unknown():
            yield Finding(
                "recover",
                WARNING,
                f"a recovery rule names {name}, which the application does not import",
                "correct the name, or import its module; until then the rule matches only that exact name",
            )


def _job(spec: JobSpec) -> Iterator[Finding]:
    if problem := spec.signature.unresolved():
        yield Finding(
            f"job {spec.name}",
            ERROR,
            problem,
            "import the type at run time too, not only under TYPE_CHECKING, or use a type that JSON has",
        )
    for problem in spec.retry.problems():
        yield Finding(
            f"job {spec.name}",
            WARNING,
            problem,
            "correct the rule, or install the module that it names where workers run",
        )
    ends = "a timeout" if spec.timeout_ms is not None else f"on_stall={spec.on_stall!r}"
    may_end = spec.timeout_ms is not None or spec.on_stall != "alert"
    if may_end and not spec.is_async and spec.executor != "process":
        yield Finding(
            f"job {spec.name}",
            ADVICE,
            f"it has {ends} but runs on a thread, which can be asked to stop but not killed",
            'give it executor="process" if it may hang',
        )
