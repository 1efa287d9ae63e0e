"""The images of a training: those to train on, those to validate on, and the sets that are measured."""

import shlex
from contextlib import nullcontext, suppress
from pathlib import Path

import datasets
from transformers import PreTrainedConfig
from transformers.utils import logging

from ..data.benchmarks import benchmarks, find_benchmark
from ..data.find_images import UnknownSplit, find_images
from ..data.groups import group_shares
from ..data.label_mapping import check_one_numbering, classes_of_model
from ..data.stream import SHUFFLE_BUFFER
from ..evaluation.sets import EvaluationSet, benchmark_sets
from .options import DataArguments


logger = logging.get_logger(__name__)

# Options that only benchmarks read.
DRAWN_FROM_BENCHMARKS = ("samples_per_class", "num_classes", "class_seed")


def load_data(
    arguments: DataArguments, model_config: PreTrainedConfig, seed: int, needs_validation: bool = True
) -> tuple[datasets.Dataset | datasets.IterableDataset, datasets.Dataset | None, dict[str, EvaluationSet]]:
    """Load training and validation images, with labels mapped to the model's classes, and the sets to measure: the
    test split if it is named, or those of the benchmark with the model's classes, whose images `seed` draws, or else the
    validation images. Streams are shuffled by `seed` within a buffer of `SHUFFLE_BUFFER` images."""
    source, options = arguments.dataset, {}
    if source in benchmarks():
        options = {name: getattr(arguments, name) for name in DRAWN_FROM_BENCHMARKS} | {"seed": seed}
    elif unread := [name for name in DRAWN_FROM_BENCHMARKS if arguments.is_given(name)]:
        logger.warning(
            f"Only benchmarks take `{unread[0]}`, and `{source}` is not one: the training uses all images of `{arguments.train_split}`."
        )
    train = find_images(source, arguments.train_split, streaming=arguments.streaming, **options).rows
    if "mask" not in (train.column_names or ["mask"]):
        name = source.rstrip("/") if Path(source).exists() else source.rpartition("/")[2]
        parts = (source, f"{name}-masks", model_config._name_or_path or "MODEL")
        images, masks, model = map(shlex.quote, parts)
        raise ValueError(
            f"`{source}` has no column `mask`, and a finetuning needs foreground masks. Make them with `robust-vit masks "
            f"tokencut --images {images} --output_dir {masks}`, then `robust-vit train --dataset {masks} --model {model}`; or do it "
            f"all with `robust-vit improve --model {model} --dataset {images} --output_dir runs/better`."
        )
    if arguments.control and "label" not in train.column_names:
        raise ValueError("The control trains on labels, but the dataset has no column `label`: leave out --control.")
    benchmark = find_benchmark(classes_of_model(model_config))
    if source in benchmarks() and source != benchmark:
        raise ValueError(f"This model has other classes than {source}: name its images with --dataset.")
    weights = None if arguments.streaming else group_shares(train, arguments.train_split)
    if arguments.streaming:
        train = train.shuffle(seed, buffer_size=SHUFFLE_BUFFER)
    validation = None
    with nullcontext() if needs_validation else suppress(UnknownSplit):
        validation = find_images(source, arguments.eval_split, **options).rows
    if arguments.test_split is not None:
        measured = {arguments.test_split: find_images(source, arguments.test_split, **options).rows}
    elif benchmark is not None:
        wanted = arguments.benchmark_sets
        return train, validation, benchmark_sets(benchmark, arguments.images_per_set, seed) if wanted else {}
    else:
        measured = {} if validation is None else {arguments.eval_split: validation}
    splits = {arguments.train_split: train, arguments.eval_split: validation, **measured}
    check_one_numbering(classes_of_model(model_config), splits)
    sets = {name: EvaluationSet.of(rows, source=source, group_weights=weights) for name, rows in measured.items()}
    return train, validation, sets
