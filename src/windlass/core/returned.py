"""What a function returned, as JSON and back, where its caller goes on with it as if it had just been returned.

``codec`` has arguments and results. A result is kept for whoever asks, so a tuple in it may become a list; here what
comes back is what was returned, or it is refused, as with arguments.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, get_args, get_origin

import msgspec

from windlass.core.codec import UNTYPED, hints_of
from windlass.core.errors import ConfigError, PayloadError
from windlass.core.foreign import is_ctrl_c, kind_name, said
from windlass.core.hints import Decode, decoder_of, encode
from windlass.core.values import Refused, TooLarge, ValueCheck, check_depth, compare

__all__ = ["Returned"]

PLAIN: Final[Decode] = msgspec.json.Decoder().decode


class Returned:
    """The codec of what one callable returns: typed by its return annotation, and checked by a round trip.

    A coroutine function counts as what it gives when it is awaited. ``where`` begins every error.
    """

    def __init__(self, fn: Callable[..., object], where: str, limit: int) -> None:
        """Raises ConfigError for an annotation that JSON cannot be turned into."""
        self._where = where
        self._max = limit
        self._decode: Decode = PLAIN
        hint, self._problem = _return_hint(fn)
        if hint in UNTYPED:
            return
        try:
            self._decode = decoder_of(hint)
        except Exception as error:  # foreign types are at work
            raise ConfigError(
                f"{where}: what its function returns cannot be restored from JSON: {said(error)}; let it return plain "
                "data, a dataclass or another type that comes back as it is"
            ) from error

    def encode(self, value: object) -> tuple[object, str]:
        """Give a value as it will come back, and its JSON text. Raises PayloadError for one that would not."""
        try:
            ValueCheck(self._max).check(value)
            data = encode(value)
            if len(data) > self._max:
                raise self._too_large(f"{len(data):,}")
            restored = self._decode(data)
            compare(value, restored)
        except Refused as refused:
            raise PayloadError(
                f"{self._where}: {refused.at('value').path} {refused.reason}{refused.advice and self._advice}"
            ) from None
        except TooLarge:
            raise self._too_large(f"more than {self._max:,}") from None
        except PayloadError:
            raise
        except BaseException as error:  # foreign types are at work
            if is_ctrl_c(error):
                raise
            raise self._changed(error) from error
        return restored, data.decode()

    def decode(self, text: str) -> object:
        """Give a value that was kept. Raises PayloadError where it does not fit the annotation any more."""
        try:
            raw = text.encode()
            check_depth(raw)
            return self._decode(raw)
        except BaseException as error:  # see above
            if is_ctrl_c(error):
                raise
            raise self._changed(error) from error

    @property
    def _advice(self) -> str:
        if self._problem is not None:
            return f"; {self._problem}"
        return "; or annotate what the function returns, then it comes back as that"

    def _changed(self, error: BaseException) -> PayloadError:
        return PayloadError(
            f"{self._where}: the value does not come back as it is annotated: {said(error) or kind_name(error)}; "
            "annotate what the function returns, or return plain data"
        )

    def _too_large(self, size: str) -> PayloadError:
        return PayloadError(
            f"{self._where}: the value takes {size} bytes as JSON, result_max is {self._max:,}; store it elsewhere and "
            "return a reference"
        )


def _return_hint(fn: Callable[..., object]) -> tuple[object, str | None]:
    """What a callable is annotated to return, and what is wrong with that annotation."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, type):
        return fn, None
    if not hasattr(fn, "__annotations__"):  # an object that can be called
        fn = type(fn).__call__
    hints, problem = hints_of(fn, {"return"})
    hint = hints.get("return", inspect.Parameter.empty)
    if get_origin(hint) in (Awaitable, Coroutine):
        hint = get_args(hint)[-1]
    return hint, problem
