"""Dataclasses of options, which `HfArgumentParser` parses: their fields, and the checks of their values."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .privacy import hide_tokens


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`. `above` excludes `low`."""

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: Any) -> bool:
        is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        return is_number and self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        low = f"a number {'>' if self.above else '≥'} {self.low:g}"
        return low if self.high == math.inf else f"{low} and ≤ {self.high:g}"


COUNT, POSITIVE, NOT_NEGATIVE = Range(1), Range(0, above=True), Range(0)
SHARE, SEED = Range(0, 1), Range(0, 2**32 - 1)


def option(default: Any = MISSING, text: str = "", **settings: Any) -> Any:
    """Field of a dataclass of options, required if it has no default. `settings` are those of `argparse`, such as
    `choices`; `within` is a [`Range`] of the number, or of those of a list; `positional` options have no dashes."""
    metadata = {"help": text} | settings
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def output_dir(default: str | None = None) -> Any:
    return option(MISSING if default is None else Path(default), "folder to write")


@dataclass(kw_only=True)
class Options:
    """Options of a command. The docstring is the command's help; `__post_init__` of subclasses checks conflicts.

    Raises:
        ValueError: a value is not `within` its range or among its choices. It is not quoted, since it may be a token.
    """

    def __post_init__(self):
        hints = get_type_hints(type(self))
        for own in fields(self):
            value, kinds = getattr(self, own.name), (hints[own.name], *get_args(hints[own.name]))
            if isinstance(value, (str, Path)):  # either, from Python, YAML or JSON
                value = Path(value) if Path in kinds else str(value)
                setattr(self, own.name, value)
            named = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), None)
            allowed = own.metadata.get("within") or own.metadata.get("choices") or named
            for each in value if isinstance(value, (list, tuple)) else [value]:
                if allowed is not None and each is not None and each not in allowed:
                    expected = allowed if isinstance(allowed, Range) else f"one of {', '.join(map(str, allowed))}"
                    raise ValueError(f"Expected `{own.name}` to be {expected}.")


def names_of(options: type[Options]) -> list[str]:
    return [own.name for own in fields(options)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` with the most similar known name, if any."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    return f"unknown {kind} {hide_tokens(name)}{did_you_mean(name, known) or '.'}"
