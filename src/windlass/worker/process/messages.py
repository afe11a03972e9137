"""What the processes of one worker say to each other. JSON frames over Unix sockets; see ``wire``."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from windlass.core.work import LeaseRef, Outcome, WorkerInfo
from windlass.settings import Settings
from windlass.worker.layout import Crew

__all__ = [
    "Alone",
    "Asked",
    "Born",
    "Bye",
    "ChildDied",
    "Command",
    "Died",
    "Ended",
    "Failed",
    "ForkChild",
    "ForkWorker",
    "Forked",
    "Full",
    "Hello",
    "Judge",
    "Judged",
    "Kill",
    "Launch",
    "NotForked",
    "Overran",
    "Ready",
    "Show",
    "decode_from_child",
    "decode_from_zygote",
    "decode_to_child",
    "decode_to_zygote",
    "encode",
]


class Launch(Struct, frozen=True):
    """Supervisor to a new zygote: what to load, and how its workers are to run."""

    app: str
    url: str | None = None
    queues: tuple[str, ...] = ()
    strict: bool = False
    pools: tuple[str, ...] = ()
    threads: int | None = None
    async_slots: int | None = None
    processes: int | None = None
    max_jobs: int | None = None
    max_memory: int | None = None  # bytes
    burst: bool = False
    shutdown_timeout: int | None = None  # ms
    log_level: str = "info"
    quiet_jobs: bool | None = None
    group: str = ""
    supervisor_pid: int | None = None


# -- supervisor ⇄ zygote --


class ForkWorker(Struct, frozen=True, tag=True):
    """Fork a worker process. Two descriptors come with it: its control socket and its slot table."""

    token: int
    slots: int
    crew: int | None  # which of Hello's; None: the process where jobs run alone
    quiet: bool = False  # it is to claim nothing


class Kill(Struct, frozen=True, tag=True):
    """Kill a process that this zygote forked, if it still lives; a child with all that it started."""

    token: int


class Show(Struct, frozen=True, tag=True):
    """Have a worker process and its children write their stacks; ``last``: that process alone, whatever it is in."""

    token: int
    last: bool = False


class Hello(Struct, frozen=True, tag=True):
    """The application is loaded."""

    settings: Settings
    crews: tuple[Crew, ...]
    notes: tuple[str, ...]  # what a person should read at start


class Failed(Struct, frozen=True, tag=True):
    """The application cannot be loaded; ``code`` is the exit code to end with."""

    message: str
    code: int


class Forked(Struct, frozen=True, tag=True):
    """A process has begun."""

    token: int
    pid: int


class NotForked(Struct, frozen=True, tag=True):
    """The system has no process to give; the same request may be made again later."""

    token: int
    why: str


class Died(Struct, frozen=True, tag=True):
    """A process has ended with this wait status; None: nobody knows how."""

    token: int
    status: int | None


# -- supervisor ⇄ worker process --


class Command(Struct, frozen=True, tag=True):
    """``stop`` (with grace), ``abort`` (none), ``quiet``, ``ping`` (to be noted in the slot table)."""

    word: str


class Judge(Struct, frozen=True, tag=True):
    """Say what becomes of jobs that ran past their timeout in a process that had to be killed for it."""

    token: int  # of that process
    culprits: tuple[LeaseRef, ...]


class Judged(Struct, frozen=True, tag=True):
    """What becomes of them: to be settled by whoever asked."""

    token: int
    outcomes: tuple[Outcome, ...]


class Ended(Struct, frozen=True, tag=True):
    """What nobody has heard of a process that has gone: jobs that it had ended (``dead`` and ``retried``, settled for
    it), jobs that ``died`` with it, and of what the worker itself died, if it did.
    """

    dead: tuple[str, ...] = ()
    retried: tuple[str, ...] = ()
    died: tuple[str, ...] = ()
    worker: str = ""
    cause: str = ""


class Born(Struct, frozen=True, tag=True):
    """The worker is about to register: from now on its death has to be told to the store."""

    info: WorkerInfo


class Ready(Struct, frozen=True, tag=True):
    """The worker is registered and claims."""


class Alone(Struct, frozen=True, tag=True):
    """A job that must run alone is due in so many ms."""

    in_ms: int


class Full(Struct, frozen=True, tag=True):
    """The worker has done enough, or has grown too large: its successor should start."""


class Overran(Struct, frozen=True, tag=True):
    """A job does not end though its time is up: the worker ends when its other jobs have, and takes that job along."""


class Asked(Struct, frozen=True, tag=True):
    """Somebody asked something of this worker through the store: ``quiet`` or ``stop``."""

    word: str


class Bye(Struct, frozen=True, tag=True):
    """The worker ends in order. ``overdue`` is to be settled once the process has gone."""

    overdue: tuple[Outcome, ...] = ()
    held: bool = False  # a thread still runs a job, which comes back when the process has gone
    fatal: str | None = None


# -- worker process ⇄ zygote --


class ForkChild(Struct, frozen=True, tag=True):
    """Fork a child for ``executor="process"``. Its socket comes with it."""

    token: int


class ChildDied(Struct, frozen=True, tag=True):
    """Such a child has ended with this wait status; None: nobody knows how."""

    token: int
    status: int | None


encode = msgspec.json.Encoder().encode
decode_to_zygote = msgspec.json.Decoder(ForkWorker | ForkChild | Kill | Show).decode
decode_from_zygote = msgspec.json.Decoder(Hello | Failed | Forked | NotForked | Died | ChildDied).decode
to_child: msgspec.json.Decoder[Command | Ended | Judge] = msgspec.json.Decoder(Command | Ended | Judge)
decode_to_child = to_child.decode
decode_from_child = msgspec.json.Decoder(Born | Ready | Alone | Full | Overran | Asked | Judged | Bye).decode
decode_launch = msgspec.json.Decoder(Launch).decode
