"""Benchmarks: datasets to finetune on, with evaluation sets, some of them shifted.

One is bundled. To add your own, add an entry to `benchmarks` and its name to `BENCHMARK_NAMES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING


if TYPE_CHECKING:  # names are read without importing datasets
    import datasets

BUNDLED_BENCHMARK = "emoji-shift"
BENCHMARK_NAMES = (BUNDLED_BENCHMARK,)  # of `benchmarks()`
IMAGES_PER_SET = 300  # of a benchmark, by default


@dataclass(frozen=True)
class Benchmark:
    class_names: tuple[str, ...]
    training_classes: frozenset[int]  # labels of the classes to finetune on by default
    shifted: tuple[str, ...]  # names of the shifted evaluation sets, over which results are averaged
    masks: str  # origin of the masks, for model cards
    # Loads `train` and `validation`; takes `samples_per_class`, `seed`, `class_seed` and `num_classes`.
    load_finetuning_splits: Callable[..., dict[str, datasets.Dataset]]
    # Loads the evaluation sets in the order of the tables; takes the images per set and the seed of their composition.
    evaluation_sets: Callable[[int, int], dict[str, datasets.Dataset]]


@cache
def benchmarks() -> dict[str, Benchmark]:
    from . import emoji_shift

    return {
        BUNDLED_BENCHMARK: Benchmark(
            class_names=emoji_shift.CLASS_NAMES,
            training_classes=frozenset(emoji_shift.training_classes()),
            shifted=emoji_shift.SHIFTED,
            masks="exact, from the composition of the images",
            load_finetuning_splits=emoji_shift.load_finetuning_splits,
            evaluation_sets=emoji_shift.load_evaluation_sets,
        )
    }


def find_benchmark(class_names: Iterable[str]) -> str | None:
    """Name of the benchmark with exactly these classes, in this order."""
    class_names = tuple(class_names)
    return next((name for name, benchmark in benchmarks().items() if benchmark.class_names == class_names), None)
