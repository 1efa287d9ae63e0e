"""Dataclasses of options, which `HfArgumentParser` parses: their fields, and the checks of their values."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from .privacy import hide_tokens


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`. `above` excludes `low`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: Any) -> bool:
        is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        return is_number and self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        low = f"{'>' if self.above else '≥'} {self.low:g}"
        return low if self.high == math.inf else f"{low} and ≤ {self.high:g}"


COUNT, POSITIVE, NOT_NEGATIVE = Range(1), Range(0, above=True), Range(0)
SHARE, PERCENT, SEED = Range(0, 1), Range(0, 100), Range(0, 2**32 - 1)


def option(default: Any = MISSING, text: str = "", **settings: Any) -> Any:
    """Field of a dataclass of options, required if it has no default. `settings` are those of `argparse`, such as `metavar`."""
    metadata = {"help": text} | settings
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def output_dir(default: str | None = None) -> Any:
    if default is None:
        return option(text="folder to write")
    return option(Path(default), f"folder to write (default: {default})")


@dataclass(kw_only=True)
class Options:
    """Options of a command. The docstring is the command's help; `__post_init__` of subclasses checks ranges and conflicts.

    Raises:
        ValueError: a value is none of those that a `Literal` allows. Errors quote no text, since it may be a token.
    """

    POSITIONAL: ClassVar[tuple[str, ...]] = ()  # arguments that the command line takes without their names

    def __post_init__(self):
        for name, annotation in get_type_hints(type(self)).items():
            value, kinds = getattr(self, name), (annotation, *get_args(annotation))
            if isinstance(value, str) and Path in kinds:  # from Python, YAML or JSON
                setattr(self, name, Path(value))
            if isinstance(value, Path) and Path not in kinds:
                setattr(self, name, str(value))
            allowed = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), None)
            if allowed and value is not None and value not in allowed:
                raise ValueError(f"Expected `{name}` to be one of {', '.join(map(str, allowed))}.")

    def check(self, **allowed: Range) -> None:
        """Raise a `ValueError` if one of these options, or an element of its list, is a number outside its range."""
        for name, numbers in allowed.items():
            value = getattr(self, name)
            for number in value if isinstance(value, list) else [value]:
                if number is not None and number not in numbers:
                    got = f"got {number}" if isinstance(number, Real) else f"got a {type(number).__name__}"
                    raise ValueError(f"Expected `{name}` to be a number {numbers}, but {got}.")


def names_of(options: type[Options]) -> list[str]:
    return [own.name for own in fields(options)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` with the most similar known name, if any."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    return f"unknown {kind} {hide_tokens(name)}{did_you_mean(name, known) or '.'}"
