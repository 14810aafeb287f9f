"""The kinds of values that options of commands take: durations, sizes and words, as in a request."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import click

from ...models import units, validation

FILE = "FILE"  # the metavar of an option that takes a file's name


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds, as a number or a duration such as ``1m30s``; or one of some words."""

    name = "seconds"

    def __init__(self, *words: str) -> None:
        self._words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if not isinstance(value, str) or value in self._words:
            return value  # type: ignore[no-any-return]
        seconds = units.seconds(value)
        with contextlib.suppress(ValueError):
            seconds = float(value) if seconds is None else seconds
        if seconds is None or not math.isfinite(seconds):
            expected = ", or ".join(("seconds, a duration such as 1m30s", *self._words))
            self.fail(f"expected {expected}; got {value!r}", param, ctx)
        return seconds


class Size(click.ParamType):  # type: ignore[type-arg]
    """MiB, as an integer or a size such as ``512m``."""

    name = "mib"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        size = units.mebibytes(value)
        try:
            return int(value) if size is None else size
        except ValueError:
            self.fail(f"expected MiB, or a size such as 512m; got {value!r}", param, ctx)


class Word(click.Choice):  # type: ignore[type-arg]
    """One of some words; another tool's word is answered with the one to use."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            hint = validation.value_instead(param.name if param else None, value)
            self.fail(error.message.removesuffix(".") + hint, param, ctx)


DURATION, SIZE = Duration(), Size()
