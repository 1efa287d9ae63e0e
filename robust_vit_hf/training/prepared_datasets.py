"""Preparation of training and validation datasets: checks, labels and transforms."""

import datasets
from torch.utils.data import Dataset
from transformers import PreTrainedConfig
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ..data.label_mapping import align_labels, check_one_numbering, class_names_of, classes_of_model, label_mapping
from ..data.row_checks import check_columns, check_rows
from ..data.stream import MaskedStream
from ..data.transforms import Transform, picklable
from .config import RobustViTConfig


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
