"""What a worker says, and what its application logs, whatever the application does to ``logging`` and to its stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.fleet import Fleet
from kit.waiting import PATIENCE
from windlass import Windlass
from windlass.core.ids import new_id
from windlass.core.model import NewJob
from windlass.testing.conformance.harness import place

JOBS = """
import logging, os, signal, sys, threading, warnings
import logging.config, logging.handlers
from windlass import Constant, Discard, JobContext, Retry, Snooze, Windlass
app = Windlass({url!r}{settings})
{prelude}
log = logging.getLogger("shop")

@app.job(name="fine")
def fine(secret: str = "") -> None: {body}

@app.job(name="fail", retry=0)
def fail(secret: str = "") -> None: raise ValueError("no stock")

@app.job(name="afail", retry=0)
async def afail() -> None: raise ValueError("no stock")

@app.job(name="child_fail", retry=0, executor="process")
def child_fail() -> None:
    {body}
    raise ValueError("no stock")

@app.job(name="again", retry=Retry(attempts=2, backoff=Constant("1h")))
def again() -> None: raise ValueError("no stock")

@app.job(name="snooze")
def snooze() -> None: raise Snooze("1h", "too early")

@app.job(name="discard")
def discard() -> None: raise Discard("not needed")

@app.job(name="crash", executor="process")
def crash() -> None: os.abort()

@app.job(name="large")
def large() -> str: return "x" * 1_000_000

@app.job(name="redacted", retry=0, redact=["card"])
def redacted(card: str) -> None: raise ValueError("card " + card + " was refused")

@app.job(name="evil", retry=0)
def evil() -> None: raise ValueError("\\x1b]0;pwned\\x07 \\n2026-01-01T00:00:00.000+00:00 INFO    1 fake")

@app.job(name="spoken")
def spoken(ctx: JobContext) -> None:
    log.info("by the shop")
    ctx.log.info("by the context")
    logging.getLogger("quiet.library").info("by a library")
    warnings.warn("by a warning")
"""


class Shop(Fleet):
    """An application, its store, and one worker at a time."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, f"sqlite:///{folder}/jobs.db", "logged:app")
        self.own = folder / "own.log"
        (folder / ".git").mkdir()  # no settings file above this folder counts
        self.client = Windlass(self.url)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.client.close()

    def write(self, prelude: str = "", body: str = "log.info('about to work')", settings: str = "") -> None:
        text = JOBS.format(url=self.url, settings=settings, prelude=prelude, body=body)
        (self.folder / "logged.py").write_text(text.replace("OWN", repr(str(self.own))))

    def enqueue(self, *names: str, payload: str = "[1,[],{}]") -> list[str]:
        jobs = [NewJob(new_id(), name, "default", payload, max_attempts=1 + (name == "again")) for name in names]
        place(self.client.engine, jobs)
        return [job.id for job in jobs]

    def burst(self, *options: str, **environment: str) -> str:
        """Run all there is to run; give the log."""
        worker = self.start("--burst", *options, **environment)
        assert worker.ended() == 0, self.said()
        return self.said()

    def ended(self) -> dict[str, int]:
        return self.client.engine.counts()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with Shop(tmp_path) as made:
        yield made


def about(log: str, job_id: str) -> list[str]:
    """The lines of a log that say how a job ended."""
    return [line for line in log.splitlines() if job_id in line and "waited" in line]


HANDLER = """
class Own(logging.Handler):
    def emit(self, record):
        if record.name.startswith("windlass"):
            {emit}
logging.root.addHandler(Own())
"""

MEDDLING = {
    "dictConfig": "logging.config.dictConfig({'version': 1})",
    "dictConfig of our loggers": (
        "logging.config.dictConfig({'version': 1, 'loggers': {'windlass': {'level': 'CRITICAL', 'handlers': [], "
        "'propagate': False}, 'windlass.job': {'level': 'CRITICAL'}}})"
    ),
    "fileConfig": (
        "open('log.ini', 'w').write('[loggers]\\nkeys=root\\n[handlers]\\nkeys=h\\n[formatters]\\nkeys=\\n"
        '[logger_root]\\nhandlers=h\\n[handler_h]\\nclass=FileHandler\\nargs=("own.log",)\\n\')\n'
        "logging.config.fileConfig('log.ini')"
    ),
    "disable": "logging.disable(logging.CRITICAL)",
    "basicConfig": "logging.basicConfig()",
    "basicConfig by force": "logging.basicConfig(force=True, level='CRITICAL')",
    "root level": "logging.root.setLevel(logging.CRITICAL)",
    "shutdown": "logging.shutdown()",
    "raiseExceptions": "logging.raiseExceptions = False",
    "lastResort": "logging.lastResort = None",
    "disabled": "for l in logging.root.manager.loggerDict.values(): l.disabled = True",
    "a logger class": (
        "class Bad(logging.Logger):\n"
        "    def __init__(self, name): super().__init__(name); name.startswith('windlass') and sys.exit(3)\n"
        "    def isEnabledFor(self, level): sys.exit(3)\n"
        "    handle = callHandlers = filter = getEffectiveLevel = isEnabledFor\n"
        "logging.setLoggerClass(Bad)\n"
        "for n, l in logging.root.manager.loggerDict.items():\n"
        "    if n.startswith('windlass.'): l.__class__ = Bad\n"
        "log = logging.root"
    ),
    "a record factory": "logging.setLogRecordFactory(lambda *a, **k: sys.exit(3))",
    "a handler that raises": HANDLER.format(emit="raise ValueError"),
    "a handler that exits": HANDLER.format(emit="sys.exit(3)"),
    "a handler that raises a BaseException": HANDLER.format(emit="raise KeyboardInterrupt"),
    "a handler that hangs": HANDLER.format(emit="threading.Event().wait()"),
    "a handler whose lock is held": HANDLER.format(emit="pass")
    + "held = threading.Thread(target=lambda: (logging.root.handlers[-1].acquire(), threading.Event().wait()))\n"
    "held.daemon = True; held.start()",
    "a filter that exits": "logging.getLogger('windlass.job').addFilter(lambda r: sys.exit(3))",
    "a queue and its listener": (
        "import queue; q = queue.Queue()\n"
        "logging.root.addHandler(logging.handlers.QueueHandler(q))\n"
        "logging.handlers.QueueListener(q, logging.FileHandler(OWN)).start()"
    ),
    "an interceptor of the root logger": HANDLER.format(emit="logging.getLogger('other').log(record.levelno, 'x')"),
    "stderr is closed": "sys.stderr.close()",
    "stderr is none": "sys.stderr = sys.__stderr__ = None",
    "stderr is foreign": "class Deaf:\n    def write(self, text): sys.exit(3)\nsys.stderr = Deaf()",
    "descriptor 2 is closed": "os.close(2)",
    "descriptor 2 leads elsewhere": "os.dup2(os.open(os.devnull, os.O_WRONLY), 2)",
    "warnings are errors": "warnings.simplefilter('error')",
    "SIGPIPE": "signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
}


@pytest.mark.parametrize("meddling", list(MEDDLING))
def test_a_worker_says_how_each_job_ended_whatever_the_application_does(shop: Shop, meddling: str) -> None:
    shop.write(MEDDLING[meddling], body="pass")
    ids = shop.enqueue("fine", "fail", "afail", "child_fail")
    log = shop.burst()
    assert [len(about(log, each)) for each in ids] == [1, 1, 1, 1], log
    assert "is done in" in about(log, ids[0])[0]
    assert all("is dead after attempt 1: ValueError: no stock" in about(log, each)[0] for each in ids[1:])
    assert shop.ended()["dead"] == 3


FILE = (
    "logging.config.dictConfig({'version': 1, 'handlers': {'own': {'class': 'logging.FileHandler', 'filename': OWN}}, "
)


@pytest.mark.parametrize("level", ["INFO", "WARNING"])
def test_the_handlers_of_the_application_get_what_it_sends_them_and_what_we_say(shop: Shop, level: str) -> None:
    shop.write(
        FILE + f"'root': {{'level': {level!r}, 'handlers': ['own']}}}})",
        body="log.info('a quiet line'); log.warning('a loud line')",
    )
    ids = shop.enqueue("fine", "child_fail", "fail")
    log = shop.burst()
    own = shop.own.read_text()
    assert own.count("a loud line") == 2  # in a thread and in a child process
    assert own.count("a quiet line") == (2 if level == "INFO" else 0)
    assert own.count("is dead after attempt 1") == 2
    assert own.count("is done in") == (1 if level == "INFO" else 0)
    assert [len(about(log, each)) for each in ids] == [1, 1, 1]
    assert " line" not in log  # it has a handler, which has decided


@pytest.mark.parametrize("stream", ["sys.stderr", "sys.stdout", "open('/dev/stderr', 'a')"])
def test_nothing_is_on_the_console_twice(shop: Shop, stream: str) -> None:
    shop.write(f"logging.basicConfig(level='INFO', stream={stream})", body="log.info('one line of the shop')")
    ids = shop.enqueue("fine", "fail")
    log = shop.burst()
    assert log.count("one line of the shop") == 1
    assert "INFO:shop:one line of the shop" in log  # in the application's own format
    assert [log.count(each) for each in ids] == [1, 1]


def test_what_no_handler_of_the_application_takes_is_shown(shop: Shop) -> None:
    shop.write("logging.getLogger('quiet').addHandler(logging.NullHandler())")
    (job_id,) = shop.enqueue("spoken")
    log = shop.burst()
    for text in ("by the shop", "by a library", "by a warning"):
        assert log.count(text) == (2 if "warning" in text else 1), log  # Python shows the line of a warning too
    assert f"by the context job_id={job_id} job_name=spoken attempt=1" in log


def test_a_level_of_the_root_logger_that_the_application_sets_stays(shop: Shop) -> None:
    shop.write("logging.root.setLevel(logging.WARNING)", body="log.info('a quiet line'); log.warning('a loud line')")
    shop.enqueue("fine")
    log = shop.burst()
    assert "a loud line" in log
    assert "a quiet line" not in log


@pytest.mark.parametrize(
    "late",
    [
        FILE + "'root': {'level': 'INFO', 'handlers': ['own']}, 'disable_existing_loggers': False})",
        "logging.basicConfig(filename=OWN, level='INFO')",
        "logging.root.addHandler(logging.FileHandler(OWN))",
    ],
)
def test_logging_that_a_job_configures_is_in_force_from_there_on(shop: Shop, late: str) -> None:
    shop.write(body=f"log.info('before'); {late}; log.info('after')")
    shop.enqueue("fine")
    log = shop.burst()
    assert "before" in log
    assert "after" not in log
    assert "before" not in shop.own.read_text()
    assert "after" in shop.own.read_text()
    assert "is done in" in log


def test_handlers_that_hold_records_back_write_them_when_a_worker_ends(shop: Shop) -> None:
    shop.write("logging.root.addHandler(logging.handlers.MemoryHandler(1_000, target=logging.FileHandler(OWN)))")
    shop.enqueue("fail")
    shop.burst()
    assert "is dead after attempt 1" in shop.own.read_text()


def test_ctx_log_is_heard_after_logging_was_configured(shop: Shop) -> None:
    shop.write(FILE + "'root': {'level': 'INFO', 'handlers': ['own']}})")
    shop.enqueue("spoken")
    shop.burst()
    assert shop.own.read_text().count("by the context") == 1


def test_threads_that_were_started_at_import_are_told_of(shop: Shop) -> None:
    shop.write("threading.Thread(target=threading.Event().wait, name='feeder', daemon=True).start()")
    assert "started threads (feeder)" in shop.burst()


@pytest.mark.parametrize("end", ["nobody reads", "the reader has gone"])
def test_a_pipe_for_stderr_neither_holds_up_nor_ends_a_worker(shop: Shop, end: str) -> None:
    shop.write("signal.signal(signal.SIGPIPE, signal.SIG_DFL)", body="pass")
    shop.enqueue(*["fine"] * 3_000)
    reader, writer = os.pipe()
    worker = shop.start("--burst", stderr=writer)
    os.close(writer)
    if end == "the reader has gone":
        os.close(reader)
    assert worker.ended() == 0
    assert shop.ended()["done"] == 3_000
    if end == "nobody reads":
        os.close(reader)


def test_a_worker_without_any_stderr_works(shop: Shop) -> None:
    shop.write(body="pass")
    shop.enqueue("fine", "fail")
    command = f"exec {sys.executable} -m windlass -A logged:app worker --burst 2>&- >&-"
    assert subprocess.run(["sh", "-c", command], cwd=shop.folder, timeout=PATIENCE).returncode == 0
    assert shop.ended() | {"done": 1, "dead": 1} == shop.ended()


@pytest.mark.parametrize("meddling", ["stderr is closed", "stderr is none", "descriptor 2 is closed"])
def test_a_worker_that_was_asked_for_its_stacks_goes_on_to_obey(shop: Shop, meddling: str) -> None:
    shop.write(MEDDLING[meddling], body="threading.Event().wait(0.01)")
    (job_id,) = shop.enqueue("fine")
    worker = shop.start()
    shop.until(lambda: job_id in shop.said(), "a job ran")
    worker.send_signal(signal.SIGUSR1)
    shop.until(lambda: "Thread 0x" in shop.said(), "the stacks")
    worker.terminate()
    assert worker.ended() == 0
    assert "is killed" not in shop.said()


def test_a_fork_that_a_job_makes_logs_too(shop: Shop) -> None:
    shop.write(
        FILE + "'root': {'level': 'INFO', 'handlers': ['own']}})",
        body="pid = os.fork(); pid or (logging.getLogger('late').info('by a fork'), os._exit(0)); os.waitpid(pid, 0)",
    )
    shop.enqueue("fine")
    shop.burst()
    assert "by a fork" in shop.own.read_text()


@pytest.mark.parametrize("where", ["the environment", "the file", "a keyword"])
def test_with_configure_logging_off_the_application_decides(shop: Shop, where: str) -> None:
    if where == "the file":
        (shop.folder / "windlass.toml").write_text("[windlass]\nconfigure_logging = false\n")
    environment = {"WINDLASS_CONFIGURE_LOGGING": "no"} if where == "the environment" else {}
    shop.write(
        "class Fields(logging.Formatter):\n"
        "    def format(self, record):\n"
        "        keys = ('event', 'job_id', 'job_name', 'queue', 'attempt', 'duration', 'wait', 'outcome')\n"
        "        return ' '.join([record.getMessage(), *(f'{k}={getattr(record, k, None)}' for k in keys)])\n"
        "own = logging.FileHandler(OWN); own.setFormatter(Fields())\n"
        "logging.root.addHandler(own); logging.root.setLevel('INFO')\n"
        "assert len(logging.root.handlers) == 1",
        settings=", configure_logging=False" if where == "a keyword" else "",
        body="assert len(logging.root.handlers) == 1 and logging.root.parent is None; log.info('own line')",
    )
    ids = shop.enqueue("fine", "fail")
    log = shop.burst(**environment)
    assert not any(each in log for each in ids)
    assert "INFO" not in log
    own = shop.own.read_text()
    assert "own line" in own
    for each, outcome in zip(ids, ("done", "dead"), strict=True):
        (line,) = about(own, each)
        assert "event=job_ended" in line
        assert f"job_id={each}" in line
        assert f"outcome={outcome}" in line


def test_with_configure_logging_off_python_shows_warnings_that_nobody_handles(shop: Shop) -> None:
    shop.write("logging.disable(0)", body="log.info('own line')")
    ids = shop.enqueue("fine", "fail")
    log = shop.burst(WINDLASS_CONFIGURE_LOGGING="false")
    assert [each in log for each in ids] == [False, True]
    assert "own line" not in log


ENDS = {
    "fine": ("done", "info"),
    "fail": ("dead", "error"),
    "afail": ("dead", "error"),
    "child_fail": ("dead", "error"),
    "again": ("retried", "warning"),
    "snooze": ("snoozed", "info"),
    "discard": ("cancelled", "warning"),
    "large": ("done", "warning"),
    "unheard_of": ("dead", "error"),
}


def test_each_end_of_a_job_is_one_line_with_its_fields_as_json(shop: Shop) -> None:
    shop.write(settings=", unknown_grace=0")
    ids = dict(zip(ENDS, shop.enqueue(*ENDS), strict=True))
    log = shop.burst(WINDLASS_LOG_FORMAT="json")
    lines = [json.loads(line) for line in log.splitlines()]
    for name, (outcome, level) in ENDS.items():
        (line,) = [line for line in lines if line.get("job_id") == ids[name] and line.get("event")]
        seen = {key: line[key] for key in ("event", "job_name", "queue", "attempt", "outcome", "level")}
        assert seen == {
            "event": "job_ended",
            "job_name": name,
            "queue": "default",
            "attempt": 1,
            "outcome": outcome,
            "level": level,
        }
        assert isinstance(line["duration"], float)
        assert isinstance(line["wait"], float)
        assert line["duration"] >= 0
        assert line["wait"] >= 0
        assert [line["retry_in"]] == [3600.0] if outcome in ("retried", "snoozed") else "retry_in" not in line
        assert (line.get("error") == "ValueError: no stock") == (name in ("fail", "afail", "child_fail", "again"))
        assert sum(ids[name] in text for text in log.splitlines()) == 1, name  # and no second line about it


def test_each_end_of_a_job_is_one_line_as_logfmt(shop: Shop) -> None:
    shop.write()
    ids = shop.enqueue("fine", "fail")
    log = shop.burst(WINDLASS_LOG_FORMAT="logfmt")
    (done,), (dead,) = (about(log, each) for each in ids)
    assert f" event=job_ended job_id={ids[0]} job_name=fine queue=default outcome=done attempt=1 duration=" in done
    assert ' error="ValueError: no stock"' in dead


def test_a_job_that_crashed_its_process_is_told_at_each_end(shop: Shop) -> None:
    shop.write(settings=", max_crashes=2")
    (job_id,) = shop.enqueue("crash")
    shop.start()
    shop.until(lambda: len(about(shop.said(), job_id)) == 2, "two ends")
    first, second = about(shop.said(), job_id)
    assert "crashed in attempt 1 and runs again: WorkerCrashed" in first
    assert "is dead after attempt 1: WorkerCrashed" in second
    assert "was killed by SIGABRT" in second


def test_a_stopped_job_is_given_back_with_a_line(shop: Shop) -> None:
    shop.write(body="threading.Event().wait()")
    (job_id,) = shop.enqueue("fine")
    shop.start("-t", "1h")
    shop.until(lambda: shop.ended().get("running") == 1, "it runs")
    (process,) = shop.client.workers()
    os.kill(process.pid, signal.SIGQUIT)  # as its supervisor does, which would kill it a moment later
    shop.until(lambda: about(shop.said(), job_id), "its line")
    (line,) = about(shop.said(), job_id)
    assert "was given back: the worker is stopping" in line


def test_no_line_shows_arguments(shop: Shop) -> None:
    shop.write()
    shop.enqueue("fine", "fail", payload='[1,["4111-2222"],{}]')
    shop.enqueue("redacted", payload='[1,["4111-2222"],{}]')
    log = shop.burst(WINDLASS_LOG_FORMAT="json")
    assert "4111" not in log
    assert "card ••• was refused" in log


def test_an_error_cannot_forge_a_line(shop: Shop) -> None:
    shop.write(
        body="log.exception('see', exc_info=ValueError('a\\n2026-01-01T00:00:00.000+00:00 INFO    1 fake\\x1b]0;'))"
    )
    shop.enqueue("evil", "fine")
    log = shop.burst()
    assert not any(line.startswith("2026-01-01") for line in log.splitlines())
    assert "\x1b" not in log


@pytest.mark.parametrize("form", ["text", "json", "logfmt"])
def test_the_functions_of_logging_cannot_forge_a_line_either(shop: Shop, form: str) -> None:
    """They make a handler of their own where nothing is configured, which would write what it gets as it is."""
    shop.write(body="logging.exception('\\x1b]0;x\\x07\\u202e\\x9b\\n2026-01-01T00:00:00.000+00:00 INFO    1 fake')")
    shop.enqueue("fine")
    log = shop.burst(WINDLASS_LOG_FORMAT=form)
    assert "1 fake" in log
    assert not any(line.startswith("2026-01-01") for line in log.splitlines())
    assert not set(log) & set("\x1b\x07\u202e\x9b")


def test_a_configuration_of_the_applications_own_holds(shop: Shop) -> None:
    shop.write(prelude="logging.basicConfig()", body="logging.warning('hello')")
    shop.enqueue("fine")
    assert "WARNING:root:hello" in shop.burst().splitlines()


@pytest.mark.parametrize("how", ["option", "setting", "keyword"])
def test_quiet_jobs_leave_out_the_lines_of_those_that_ended_well(shop: Shop, how: str) -> None:
    shop.write(settings=", quiet_jobs=True" if how == "keyword" else "")
    ids = shop.enqueue("fine", "snooze", "fail", "large")
    options = ["--quiet-jobs"] if how == "option" else []
    log = shop.burst(*options, **({"WINDLASS_QUIET_JOBS": "1"} if how == "setting" else {}))
    assert [len(about(log, each)) for each in ids] == [0, 0, 1, 1]
    assert "about to work" in log


def test_a_format_that_the_application_names_is_the_supervisors_too(shop: Shop) -> None:
    shop.write(settings=", log_format='json'")
    shop.enqueue("fine")
    lines = [json.loads(line) for line in shop.burst().splitlines()]
    assert {"windlass.supervisor", "windlass.worker", "windlass.job", "shop"} <= {line["logger"] for line in lines}
