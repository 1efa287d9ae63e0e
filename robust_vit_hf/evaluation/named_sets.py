"""Names of evaluation sets."""

from collections.abc import Iterable
from typing import NamedTuple, Self

from ..data.set_names import BENCHMARK_NAMES, FAMILIES, LATER_SETS, SETS_WITH_MASKS, WATERBIRDS
from ..results.published import PAPER_SETS


SEGMENTATION_SETS = (*BENCHMARK_NAMES, *SETS_WITH_MASKS, "imagenet-9-original", "hard-imagenet")
IMAGENET_SETS = (*PAPER_SETS, *LATER_SETS)  # in the order of the tables


class NamedSource(NamedTuple):
    """A set's name and source. The default source is its Hub dataset or the benchmark."""

    name: str
    source: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `NAME` or `NAME=SOURCE`.

        Raises:
            ValueError: the name is empty.
        """
        name, _, source = text.partition("=")
        if not name:
            raise ValueError(f"`{text}` names no set: expected NAME or NAME=SOURCE")
        return cls(name, source or None)


def expand_families(named: Iterable[NamedSource]) -> list[NamedSource]:
    """The sets with each family, such as `imagenet-9`, replaced by its sets, all from its source."""
    return [NamedSource(name, source) for family, source in named for name in FAMILIES.get(family, (family,))]


def check_set_names(names: list[str]) -> None:
    """Refuse sets that cannot be evaluated, before loading anything.

    Raises:
        ValueError: a name is repeated, or is neither a benchmark nor a labelled set with the classes of ImageNet.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"A set is named twice: {', '.join(names)}.")
    for name in names:
        if name == WATERBIRDS:
            raise ValueError(
                f"`{WATERBIRDS}` has two classes of its own and groups, and is evaluated as images of your own: `robust-vit data prepare "
                f"{WATERBIRDS} FOLDER --output_dir sets/{WATERBIRDS}`, then give `--dataset sets/{WATERBIRDS} --split test`."
            )
        if name not in (*BENCHMARK_NAMES, *IMAGENET_SETS):
            known = (*BENCHMARK_NAMES, *PAPER_SETS, *FAMILIES, *LATER_SETS)
            hint = "`robust-vit segment` takes sets with masks; for images of your own, give --dataset."
            raise ValueError(f"Unknown set `{name}`: expected {', '.join(known)}. {hint}")
