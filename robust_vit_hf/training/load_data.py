"""Datasets of a finetuning: loaded, checked and prepared for the Trainer."""

import shlex
from contextlib import nullcontext, suppress
from pathlib import Path

import datasets
from torch.utils.data import Dataset
from transformers import PreTrainedConfig
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ..data.benchmarks import benchmarks, find_benchmark
from ..data.find_images import UnknownSplit, find_images
from ..data.groups import group_shares
from ..data.label_mapping import align_labels, check_one_numbering, class_names_of, classes_of_model, label_mapping
from ..data.schema import check_columns, check_rows
from ..data.stream import SHUFFLE_BUFFER, MaskedStream
from ..data.transforms import Transform, picklable
from ..evaluation.sets import EvaluationSet, benchmark_sets
from .config import RobustViTConfig
from .options import DataArguments


logger = logging.get_logger(__name__)


def prepare_datasets(
    train: Dataset | datasets.IterableDataset | None,
    evaluation: Dataset | None,
    augment: Transform,
    transform: Transform,
    config: PreTrainedConfig,
    args: RobustViTConfig,
) -> dict[str, Dataset]:
    """Prepare the datasets of [`~robust_vit_hf.RobustViTTrainer`], returned as `train` and `eval`: checked, with labels
    mapped to the model's classes, and transformed for training (`augment`) or evaluation."""
    if isinstance(evaluation, (dict, datasets.IterableDataset)):
        raise ValueError(
            f"Expected `eval_dataset` to be one table, which is read at every evaluation, but got a {type(evaluation).__name__}. "
            "Call `measure_accuracy` for several sets."
        )
    check_one_numbering(classes_of_model(config), {"train": train, "eval": evaluation})
    given = {"train": (train, augment), "eval": (evaluation, transform)}
    return {name: _prepare(name, *of_name, config, args) for name, of_name in given.items() if of_name[0] is not None}


def _prepare(
    name: str, dataset: Dataset, transform: Transform, config: PreTrainedConfig, args: RobustViTConfig
) -> Dataset:
    streamed, source = isinstance(dataset, datasets.IterableDataset), f"{name} dataset"
    if not streamed and (not isinstance(dataset, datasets.Dataset) or "pixel_values" in dataset.column_names):
        return dataset
    check_columns(dataset, name, ("label", "mask") if args.needs_labels else ("mask",))
    if not streamed:
        dataset = align_labels(dataset, classes_of_model(config), source)
        dataset = dataset.add_column("row_index", range(len(dataset)))  # to name images with non-finite losses
        dataset = check_rows(dataset, name, config.num_labels, args.bad_masks)
        return dataset.with_transform(with_rows(transform))
    if IntervalStrategy.EPOCH in (args.save_strategy, args.eval_strategy):
        logger.warning(
            "The train dataset is streamed, so that `max_steps` count as one epoch: checkpoints and evaluations of the strategy "
            "`epoch` come once, at the end. For more, give `save_strategy` and `eval_strategy` `steps`, with `save_steps`."
        )
    mapping = label_mapping(class_names_of(dataset.features), classes_of_model(config), source)
    process = (args.process_index, args.world_size)
    return MaskedStream(dataset, transform, config.num_labels, mapping, args.bad_masks, args.seed, *process)


@picklable
def with_rows(transform: Transform) -> Transform:
    """Make a transform keep the row's number, to name images in errors."""
    return lambda rows: transform(rows) | {"row_index": rows["row_index"]}


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
