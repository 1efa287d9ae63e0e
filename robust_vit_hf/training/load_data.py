"""Load the images of a finetuning run."""

from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import datasets
from accelerate import PartialState
from transformers import PreTrainedConfig

from ..data import emoji_shift
from ..data.classes import check_one_numbering, classes_of_model
from ..data.copies import without_copies
from ..data.find_images import UnknownSplit, find_images
from ..data.groups import group_shares
from ..data.known_sets import BUNDLED_BENCHMARK
from ..data.stream import SHUFFLE_BUFFER
from ..evaluation.sets import EvaluationSet, benchmark_sets
from .options import DataArguments


DRAWN_FROM_BENCHMARKS = ("samples_per_class", "num_classes", "class_seed")  # options without effect on other data


def load_data(
    arguments: DataArguments,
    model_config: PreTrainedConfig,
    seed: int,
    needs_validation: bool = True,
) -> tuple[datasets.Dataset | datasets.IterableDataset, datasets.Dataset | None, dict[str, EvaluationSet]]:
    """Load the images of a finetuning run. `seed` draws those of a benchmark, and shuffles a stream.

    Returns:
        Training images, validation images (`None` if there are none and none are needed), and the sets to measure: the
        test split if one is named, else those of the benchmark with the model's classes, else the validation images.
    """
    drawn = {name: getattr(arguments, name) for name in DRAWN_FROM_BENCHMARKS} | {"seed": seed}
    options = drawn if arguments.dataset == BUNDLED_BENCHMARK else {}
    find = partial(find_images, arguments.dataset, held_out=arguments.hold_out, **options)
    images = {arguments.train_split: find(arguments.train_split, streaming=arguments.streaming)}
    train, weights = images[arguments.train_split].rows, None
    if arguments.control and "label" not in train.column_names:
        raise ValueError("The control needs labels, but the dataset has no column `label`: leave out --control.")
    if arguments.streaming:
        train = train.shuffle(seed, buffer_size=SHUFFLE_BUFFER)
    else:
        weights = group_shares(train, arguments.train_split)
    with nullcontext() if needs_validation else suppress(UnknownSplit):
        images[arguments.eval_split] = find(arguments.eval_split)
    measured = arguments.test_split or arguments.eval_split
    if arguments.test_split is not None:
        images[measured] = find(measured)
    elif emoji_shift.has_classes(classes_of_model(model_config)):
        sets = benchmark_sets(arguments.images_per_set, seed) if arguments.benchmark_sets else {}
        return train, images[arguments.eval_split].rows if arguments.eval_split in images else None, sets
    check_one_numbering(classes_of_model(model_config), {name: of.rows for name, of in images.items()})
    if not arguments.streaming and arguments.dataset != BUNDLED_BENCHMARK:
        with PartialState().main_process_first():
            images = without_copies(images)  # the training keeps its own
    validation, sets = images.get(arguments.eval_split), {}
    if measured in images:
        facts: dict[str, Any] = {"group_weights": weights, "notes": images[measured].notes}
        sets[measured] = EvaluationSet.of(images[measured].rows, source=arguments.dataset, **facts)
    return train, validation and validation.rows, sets
