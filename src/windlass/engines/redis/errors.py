"""What the driver raises, said in our words: what happened, to which server, and what to do.

Works by the names of classes and the first word of a server's answer, so that errors of redis and of valkey are told
alike. Secrets never show: a server is named by its masked URL.
"""

from __future__ import annotations

import re
from typing import Final

from windlass.core.errors import ConfigError, EngineDamaged, EngineError, EngineFull, EngineUnavailable, EngineUnusable

__all__ = ["is_busy", "raised_by_driver", "translate"]

# First word of an answer -> (our error, what happened and what to do).
ANSWERS: Final[dict[str, tuple[type[EngineError], str]]] = {
    "WRONGPASS": (EngineUnusable, "refused user name or password: correct them in the URL"),
    "NOAUTH": (EngineUnusable, "wants a password: put it into the URL, redis://:PASSWORD@host"),
    "NOPERM": (
        EngineUnusable,
        "does not allow this user what it must do: give it the rights of the guide to Redis, those of this version",
    ),
    "LOADING": (EngineUnavailable, "is loading its data: the same call works once it is done"),
    "BUSY": (EngineUnavailable, "has been busy with one script for long: look for it, then SCRIPT KILL"),
    "READONLY": (EngineUnavailable, "is a read-only replica now: connect to the master"),
    "MASTERDOWN": (EngineUnavailable, "is a replica that has lost its master: connect to the master"),
    "CLUSTERDOWN": (EngineUnavailable, "is a cluster that does not serve our keys now: see CLUSTER INFO"),
    "TRYAGAIN": (EngineUnavailable, "is moving our keys to another node: the same call works later"),
    "NOREPLICAS": (EngineUnavailable, "has too few replicas for its min-replicas-to-write"),
    "MISCONF": (EngineUnavailable, "takes no writes since it cannot save to its disk: see its log"),
    "OOM": (EngineFull, "has used its maxmemory and stored nothing: raise maxmemory, or let workers drain the queues"),
    "WRONGTYPE": (EngineDamaged, "has a key of ours with another type, and it could not be set aside"),
    "MOVED": (EngineUnusable, "is a node of a cluster: write redis+cluster:// instead of redis://"),
    "CROSSSLOT": (EngineUnusable, "is a cluster and our keys are in several slots: report this as a bug"),
}
WORD: Final = re.compile(rf"\b({'|'.join(ANSWERS)})\b")


def raised_by_driver(error: BaseException) -> bool:
    """Whether an error comes from the driver or its sockets, and not from us."""
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(modules & {"redis", "valkey"}) or isinstance(error, OSError)


def is_busy(error: BaseException) -> bool:
    """Whether the server did nothing since a script has been running for longer than its ``busy-reply-threshold``."""
    return str(error).startswith("BUSY ")


def translate(error: BaseException, target: str) -> EngineError | ConfigError:
    """Our error for one of the driver's."""
    text = str(error).replace("\n", " ")
    names = {kind.__name__ for kind in type(error).__mro__}
    cause = f"{text} {error.__context__ or ''}".lower()
    if "ssl" in cause or "handshake" in cause:
        return EngineUnusable(
            f"{target}: no TLS connection ({text}): use redis:// for a server without TLS, and see its certificate"
        )
    if isinstance(error, TimeoutError) or "TimeoutError" in names:
        return EngineUnavailable(
            f"{target} did not answer in time ({text}); what was asked for may have happened: see that the server is "
            "there, or raise network_timeout"
        )
    if "InvalidResponse" in names:
        return EngineUnusable(f"{target} does not speak the Redis protocol ({text}): correct host and port of the URL")
    by_class = {
        "AuthenticationError": "WRONGPASS",
        "NoPermissionError": "NOPERM",
        "AuthorizationError": "NOPERM",
        "BusyLoadingError": "LOADING",
        "ReadOnlyError": "READONLY",
        "OutOfMemoryError": "OOM",
        "MovedError": "MOVED",
        "ClusterDownError": "CLUSTERDOWN",
        "MasterDownError": "MASTERDOWN",
    }
    word = next((word for name, word in by_class.items() if name in names), None)
    if word == "WRONGPASS" and ("NOAUTH" in text or "required" in text):
        word = "NOAUTH"
    if "user executing the script can't" in text:  # a right that a command in a script needs
        word = "NOPERM"
    found = WORD.search(text)
    if word is None and found is not None:
        word = found[1]
    if word is not None:
        kind, what = ANSWERS[word]
        return kind(f"{target} {what} ({text})")
    if "DB index" in text or "SELECT is not allowed" in text:
        return EngineUnusable(f"{target} has no such database ({text}): correct the number at the end of the URL")
    if "MasterNotFoundError" in names or "SlaveNotFoundError" in names:
        return EngineUnavailable(
            f"{target}: no Sentinel knows a master of that name ({text}): correct the name, or wait for a failover"
        )
    if isinstance(error, OSError) or "ConnectionError" in names or "RedisClusterException" in names:
        hint = "; a server with TLS needs rediss://" if "closed" in text or "reset" in text else ""
        return EngineUnavailable(f"{target} cannot be reached ({text}): start it, or correct the URL{hint}")
    if "ResponseError" in names:
        return EngineDamaged(
            f"{target} refused a call, over what it holds or what was asked ({text}): see `windlass doctor`"
        )
    return EngineUnavailable(f"{target}: {type(error).__name__}: {text}")
