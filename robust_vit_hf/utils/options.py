"""Which values an option takes: one check for the command line, recipes and Python."""

import math
from collections.abc import Set
from dataclasses import dataclass
from datetime import date
from enum import Enum
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`. `above` leaves `low` itself out."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: Any) -> bool:
        return math.isfinite(value) and self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"from {self.low:g} to {self.high:g}"
        if self.low > -math.inf:
            return f"{'>' if self.above else '≥'} {self.low:g}"
        return "to be finite"


def types_of(annotation: Any) -> set[type]:
    """Types of the values of an annotation: of each member of a union, of the values of a `Literal`, `list` for `list[str]`."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return set().union(*map(types_of, get_args(annotation)))
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if annotation is Any:
        return {object}
    return {origin or annotation}


def check_option(name: str, value: Any, types: Set[type], allowed: Range | None = None) -> None:
    """Refuse a value of another type than `types`, and numbers outside a range. Values are not quoted unless they are numbers:
    one may be a token.

    Raises:
        ValueError: the message names the option, what was expected and what it got.
    """
    if value is None:
        fits = NoneType in types or object in types
    elif isinstance(value, bool):
        fits = bool in types
    elif isinstance(value, Real):
        fits = float in types or (int in types and isinstance(value, Integral))
    elif isinstance(value, (str, list, dict)):
        fits = isinstance(value, tuple(types)) or any(issubclass(kind, Enum) for kind in types)
    elif isinstance(value, (bytes, date)):  # YAML makes dates of text such as 2024-05-01
        fits = False
    else:  # objects of Python, of which the Trainer takes some where its annotations do not say so
        fits = not types <= {bool, int, float, NoneType}
    if not fits:
        expected = " or ".join(text for kind, text in NAMES.items() if kind in types)
        quotes = ": put text in quotes" if isinstance(value, bool) and str in types else ""
        got = "nothing (null)" if value is None else NAMES.get(type(value), f"a {type(value).__name__}")
        raise ValueError(f"Expected `{name}` to be {expected}, but got {got}{quotes}.")
    if isinstance(value, Real) and value not in (allowed or Range()):
        raise ValueError(f"Expected `{name}` {allowed or Range()}, but got {value}.")


def check_options(options: Any, types: dict[str, Any], ranges: dict[str, Range]) -> None:
    """Refuse attributes that [`check_option`] refuses.

    Args:
        types: annotations of the attributes to check, by name.
        ranges: of numbers, by name; others must be finite.
    """
    for name, annotation in types.items():
        check_option(name, getattr(options, name), types_of(annotation), ranges.get(name))
