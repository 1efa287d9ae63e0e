"""Preparation of training and validation datasets: checks, labels and transforms."""

from collections.abc import Callable

import datasets
from torch.utils.data import Dataset
from transformers import BaseImageProcessor, PreTrainedConfig
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ..data.label_mapping import align_labels, class_names_of, classes_of_model, label_mapping
from ..data.row_checks import check_columns, check_rows
from ..data.stream import MaskedStream
from ..data.transforms import eval_transform, train_transform
from ..models.preprocessing import squash_resample
from .callbacks import SharedEpoch
from .config import RobustViTConfig


logger = logging.get_logger(__name__)

# Options of the Trainer that change nothing of a stream, and their defaults.
NOT_OF_STREAMS = {
    "data_seed": None,
    "train_sampling_strategy": "random",
    "dataloader_drop_last": False,
    # `max_steps` are one epoch.
    "lr_decay_rate": RobustViTConfig.lr_decay_rate,
    "lr_decay_every": RobustViTConfig.lr_decay_every,
}
# Of its `accelerator_config`, for loaders that Accelerate prepares, as that of a stream is not.
PREPARED_LOADERS = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "non_blocking")


def prepare_datasets(
    train: Dataset | datasets.IterableDataset | None,
    evaluation: Dataset | None,
    processor: BaseImageProcessor,
    config: PreTrainedConfig,
    args: RobustViTConfig,
    epoch: SharedEpoch,
) -> dict[str, Dataset]:
    """Prepare the given datasets, returned as `train` and `eval`: checked, with labels mapped to the model's classes,
    and transformed for its processor.

    Args:
        train, evaluation: as for [`~robust_vit_hf.RobustViTTrainer`].
        epoch: training epoch, on which the augmentation depends.

    Raises:
        ValueError: rows, columns or labels are unusable, the validation dataset is a stream, or a stream is used
            without `max_steps`.
    """
    streamed = isinstance(train, datasets.IterableDataset)  # draws crops and flips by itself
    seed_of_row = None if streamed else lambda row: (args.seed, int(epoch.number), row)
    views = {
        "train": (train, train_transform(processor, seed_of_row, squash_resample(processor))),
        "eval": (evaluation, eval_transform(processor)),
    }
    return {
        name: _prepare_dataset(name, dataset, transform, config, args)
        for name, (dataset, transform) in views.items()
        if dataset is not None
    }


def _prepare_dataset(
    name: str, dataset: Dataset, transform: Callable, config: PreTrainedConfig, args: RobustViTConfig
) -> Dataset:
    if isinstance(dataset, datasets.IterableDataset):
        return _prepare_stream(name, dataset, transform, config, args)
    if not isinstance(dataset, datasets.Dataset) or "pixel_values" in dataset.column_names:
        return dataset
    check_columns(dataset, name, ("label", "mask") if args.needs_labels else ("mask",))
    dataset = align_labels(dataset, classes_of_model(config), f"{name} dataset")
    dataset = dataset.add_column("row_index", range(len(dataset)))  # to name images with non-finite losses
    dataset = check_rows(dataset, name, config.num_labels, args.bad_masks)
    return dataset.with_transform(with_rows(transform))


def with_rows(transform: Callable) -> Callable:
    """Make a transform keep the row's number, to name images in errors."""
    return lambda rows: transform(rows) | {"row_index": rows["row_index"]}


def _prepare_stream(
    name: str,
    dataset: datasets.IterableDataset,
    transform: Callable,
    config: PreTrainedConfig,
    args: RobustViTConfig,
) -> MaskedStream:
    if name != "train":
        raise ValueError(
            f"The {name} dataset is streamed, but all of its rows are read at every evaluation: load it as a table."
        )
    if args.max_steps <= 0:
        raise ValueError(
            "The train dataset is streamed, so that the number of its images is unknown: give `max_steps`."
        )
    # Releases of transformers have other options.
    for option, unset in NOT_OF_STREAMS.items():
        if getattr(args, option, unset) != unset:
            raise ValueError(
                f"`{option}` has no effect on a stream, which orders and reads its rows by itself, in one epoch: leave it out, in a new run."
            )
    unset_loaders = AcceleratorConfig()
    for option in PREPARED_LOADERS:
        if getattr(args.accelerator_config, option) != getattr(unset_loaders, option):
            logger.warning(
                f"`accelerator_config.{option}` acts on validation images alone: a stream has a loader of its own."
            )
    check_columns(dataset, name, ("label", "mask") if args.needs_labels else ("mask",))
    if IntervalStrategy.EPOCH in (args.save_strategy, args.eval_strategy):
        logger.warning(
            "The train dataset is streamed, so that `max_steps` count as one epoch: checkpoints and evaluations of the strategy "
            "`epoch` come once, at the end. For more, give `save_strategy` and `eval_strategy` `steps`, with `save_steps`."
        )
    mapping = label_mapping(class_names_of(dataset.features), classes_of_model(config), f"{name} dataset")
    process = (args.process_index, args.world_size)
    return MaskedStream(dataset, transform, config.num_labels, mapping, args.bad_masks, args.seed, *process)
