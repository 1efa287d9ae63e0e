"""Names of evaluation sets on the command line."""

from collections.abc import Iterable
from typing import NamedTuple, Self

from ..data.benchmarks import BENCHMARK_NAMES
from ..data.known_sets import EVALUATION_SETS, FAMILIES, LATER_SETS, PAPER_SETS


class NamedSource(NamedTuple):
    """A set's name and source. The default source is its Hub dataset or the benchmark."""

    name: str
    source: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `NAME` or `NAME=SOURCE`."""
        name, _, source = text.partition("=")
        return cls(name, source or None)


def expand_sets(named: Iterable[NamedSource]) -> list[NamedSource]:
    """The sets, known and different, with each family, such as `imagenet-9`, replaced by its sets from its source."""
    sets = [NamedSource(name, source) for family, source in named for name in FAMILIES.get(family, (family,))]
    names = [name for name, _ in sets]
    if len(set(names)) < len(names):
        raise ValueError(f"A set is named twice: {', '.join(names)}.")
    if unknown := [name for name in names if name not in (*BENCHMARK_NAMES, *EVALUATION_SETS)]:
        raise ValueError(
            f"Unknown set `{unknown[0]}`: expected {', '.join((*BENCHMARK_NAMES, *PAPER_SETS, *FAMILIES, *LATER_SETS))}. `robust-vit "
            "segment` takes sets with masks. For images of your own, or with classes of their own, such as prepared waterbirds, give "
            "--dataset and --split."
        )
    return sets
