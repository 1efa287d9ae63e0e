"""Options of commands: dataclasses that validate values from the command line, recipes and Python."""

import difflib
import math
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import date
from enum import Enum
from inspect import get_annotations
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from .privacy import hide_tokens


NAMES = {bool: "true or false", int: "a whole number", float: "a number"}
NAMES |= {str: "text", list: "a list", dict: "a mapping", Path: "a path"}
WORDS = dict.fromkeys(("yes", "true", "t", "y", "1"), True) | dict.fromkeys(("no", "false", "f", "n", "0"), False)


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`. `above` excludes `low`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: Any) -> bool:
        return math.isfinite(value) and self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.high < math.inf:
            low, high = (str(bound) if isinstance(bound, int) else f"{bound:g}" for bound in (self.low, self.high))
            return f"> {low} and ≤ {high}" if self.above else f"from {low} to {high}"
        if self.low > -math.inf:
            return f"{'>' if self.above else '≥'} {self.low:g}"
        return "to be finite"


COUNT, POSITIVE, NOT_NEGATIVE = Range(1), Range(0, above=True), Range(0)
SHARE, PERCENT, SEED = Range(0, 1), Range(0, 100), Range(0, 2**32 - 1)


def option(
    default: Any = MISSING,
    text: str = "",
    allowed: Range | None = None,
    *,
    choices: Iterable | Callable[[], Iterable] | None = None,
    metavar: str | None = None,
    positional: bool = False,
    nargs: str | None = None,
) -> Any:
    """Field of [`Options`], which is required if it has no default. `allowed` is the range of a number, or of each number in a
    list; by default, any finite number is allowed. `choices` may be a function. `metavar` and `nargs` are those of `argparse`."""
    metadata: dict[str, Any] = {"help": text, "range": allowed, "choices": choices}
    metadata |= {"metavar": metavar, "positional": positional, "nargs": nargs}
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def output_dir(default: str | None = None) -> Any:
    if default is None:
        return option(text="folder to write")
    return option(Path(default), f"folder to write (default: {default})")


@dataclass
class Options:
    """Validated options. The docstring is the command's help; `__post_init__` of subclasses checks combinations."""

    GROUP: ClassVar[str | None] = None  # title of the class's options in the help

    def __new__(cls, *values, **options):
        self, positional = super().__new__(cls), [own.name for own in fields(cls) if not own.kw_only]
        self._given = {*positional[: len(values)], *options}
        return self

    def __post_init__(self):
        for name, declared in declared_options(type(self)).items():
            setattr(self, name, declared.converted(getattr(self, name)))
            declared.check(getattr(self, name))

    def is_given(self, name: str) -> bool:
        """Whether an option was given, even with its default value. In copies by `dataclasses.replace`, all count as given."""
        return name in vars(self)["_given"]


@dataclass(frozen=True)
class Declared:
    name: str
    annotation: Any
    field: Field
    group: str | None

    @property
    def default(self) -> Any:
        return self.field.default if self.field.default_factory is MISSING else self.field.default_factory()

    @property
    def types(self) -> set[type]:
        return types_of(self.annotation)

    @property
    def members(self) -> list:
        """Annotations of the option's values without `None`: the members of a union, or the only one."""
        united = get_origin(self.annotation) in (Union, UnionType)
        return [kind for kind in (get_args(self.annotation) if united else [self.annotation]) if kind is not NoneType]

    @property
    def element(self) -> Any:
        """Annotation of a list's elements; `None` if the option takes no list."""
        return next((get_args(member)[0] for member in self.members if get_origin(member) is list), None)

    @property
    def choices(self) -> tuple:
        """Allowed values, or allowed elements of a list; empty if any are allowed."""
        kinds = [kind for kind in self.members if get_origin(kind) is not list] or [self.element]
        literal = get_args(kinds[0]) if len(kinds) == 1 and get_origin(kinds[0]) is Literal else ()
        choices = self.field.metadata.get("choices") or literal
        return tuple(choices() if callable(choices) else choices)

    def converted(self, value: Any) -> Any:
        """Convert text to a path where a path is declared, and a path to text where text is declared."""
        if Path in self.types:
            return Path(value) if isinstance(value, str) and value else value
        if str in self.types and isinstance(value, Path):
            return str(value)
        if self.element is Path and isinstance(value, (list, tuple)):
            return [Path(path) if path else path for path in value]
        return value

    def check(self, value: Any) -> None:
        """Raise an error for a value of a wrong type or range. Errors quote only numbers, since other values may be tokens."""
        # Empty text comes from shell variables that are not set; an empty list would leave nothing to try.
        has_default = isinstance(self.default, list) and self.default
        is_empty = value == "" != self.default or (isinstance(value, list) and not value and has_default)
        problem = "not to be empty." if is_empty else self._problem(value, self.types)
        is_list = self.element is not None and isinstance(value, (list, tuple))
        for element in value if is_list else [value]:
            problem = problem or (self._problem(element, types_of(self.element)) if is_list else None)
            if problem is None and self.choices and element is not None and element not in self.choices:
                known = [str(choice) for choice in self.choices]
                problem = f"to be one of {', '.join(known)}{did_you_mean(str(element), known) or '.'}"
        if problem is not None:
            raise ValueError(f"Expected `{self.name}` {problem}")

    def _problem(self, value: Any, types: set[type]) -> str | None:
        """What a value is expected to be instead; `None` if its type and range are right."""
        allowed = self.field.metadata.get("range") or Range()
        if _fits(value, types):
            return f"{allowed}, but got {value}." if isinstance(value, Real) and value not in allowed else None
        named = [text for kind, text in NAMES.items() if kind in types]
        expected = " or ".join(named or [f"a {kind.__name__}" for kind in types - {NoneType}])
        quotes = ": put text in quotes" if isinstance(value, bool) and str in types else ""
        got = "nothing (null)" if value is None else NAMES.get(type(value), f"a {type(value).__name__}")
        return f"to be {expected}, but got {got}{quotes}."

    def parse(self, text: str) -> Any:
        """Parse text as a value, or as an element of a list. Other text is returned as it is, and [`check`] rejects it."""
        types = self.types if self.element is None else types_of(self.element)
        parse = next((kind.parse for kind in types if hasattr(kind, "parse")), None)
        if parse is not None:
            return parse(text)
        if Path in types:
            return text and Path(text)
        if bool in types and text.lower() in WORDS:
            return WORDS[text.lower()]
        return parse_number(text, types)


def parse_number(text: str, types: Set[type]) -> Any:
    """Parse text as a number if `types` include numbers; otherwise return the text."""
    for kind in (int, float) if int in types else (float,) if float in types else ():
        with suppress(ValueError):
            return kind(text)
    return text


def declared_options(options: type["Options"]) -> dict[str, Declared]:
    """The options that a dataclass takes, by name, in the order of its arguments."""
    hints, declared = get_type_hints(options), {}
    for own in fields(options):
        if own.init:
            owner = next(base for base in options.__mro__ if own.name in get_annotations(base))
            group = vars(owner if issubclass(owner, Options) else options).get("GROUP")
            declared[own.name] = Declared(own.name, hints[own.name], own, group)
    return declared


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` with the most similar known name, if any."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    return f"unknown {kind} {hide_tokens(name)}{did_you_mean(name, known) or '.'}"


def types_of(annotation: Any) -> set[type]:
    """Types in an annotation: the members of a union, the types of a `Literal`'s values, `list` for `list[str]`."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return set().union(*map(types_of, get_args(annotation)))
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if annotation is Any:
        return {object}
    return {origin or annotation}


def _fits(value: Any, types: Set[type]) -> bool:
    """Whether a value has one of the types. A whole number also counts as a number, but `True` does not."""
    if value is None:
        return NoneType in types or object in types
    if isinstance(value, bool):
        return bool in types
    if isinstance(value, Real):
        return float in types or (int in types and isinstance(value, Integral))
    if isinstance(value, (str, list, dict, bytes, date, Path)):  # YAML parses 2024-05-01 as a date
        return isinstance(value, tuple(types)) or any(issubclass(kind, Enum) for kind in types)
    # Other Python objects, some of which the Trainer accepts though its annotations omit them.
    return not types <= {bool, int, float, str, Path, NoneType}
