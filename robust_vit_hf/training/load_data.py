"""Data of a finetuning run: load and check it, prepare it for the Trainer, and read it in batches."""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedConfig, Trainer
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ..data import emoji_shift
from ..data.classes import align_labels, check_one_numbering, class_names_of, classes_of_model, label_mapping
from ..data.copies import without_copies
from ..data.find_images import UnknownSplit, find_images
from ..data.groups import group_shares
from ..data.known_sets import BUNDLED_BENCHMARK
from ..data.schema import check_columns, check_rows, name_of, undecoded
from ..data.stream import SHUFFLE_BUFFER, MaskedStream
from ..data.transforms import Transform, picklable
from ..evaluation.sets import EvaluationSet, benchmark_sets
from .config import RobustViTConfig
from .options import DataArguments


logger = logging.get_logger(__name__)

DRAWN_FROM_BENCHMARKS = ("samples_per_class", "num_classes", "class_seed")  # options without effect on other data


def load_data(
    arguments: DataArguments,
    model_config: PreTrainedConfig,
    seed: int,
    needs_validation: bool = True,
    folder: Path | None = None,
) -> tuple[datasets.Dataset | datasets.IterableDataset, datasets.Dataset | None, dict[str, EvaluationSet]]:
    """Load the images of a finetuning run.

    Args:
        seed: seed that draws the images of a benchmark, and shuffles a stream within a buffer.
        needs_validation: whether a missing validation split is an error even if the options do not name it.
        folder: where the thumbnails that find copies are kept for the next start.

    Returns:
        Training images, validation images (`None` if there are none), and the sets to measure by name: the test split if
        one is named, otherwise the sets of the benchmark that has the model's classes, otherwise the validation images.
    """
    source, options = arguments.dataset, {}
    if source == BUNDLED_BENCHMARK:
        options = {name: getattr(arguments, name) for name in DRAWN_FROM_BENCHMARKS} | {"seed": seed}
    elif unread := [name for name in DRAWN_FROM_BENCHMARKS if arguments.is_given(name)]:
        logger.warning(
            f"`{unread[0]}` has an effect only on benchmarks, and `{source}` is not one: all images of `{arguments.train_split}` are used."
        )
    images = {
        arguments.train_split: find_images(source, arguments.train_split, streaming=arguments.streaming, **options)
    }
    train = images[arguments.train_split].rows
    if "mask" not in (train.column_names or ["mask"]):
        raise ValueError(
            f"`{source}` has no column `mask`, and a finetuning needs foreground masks: make them with `robust-vit masks`, or leave it to "
            "`robust-vit improve`, which makes masks and finetunes."
        )
    if arguments.control and "label" not in train.column_names:
        raise ValueError("The control needs labels, but the dataset has no column `label`: leave out --control.")
    weights = None if arguments.streaming else group_shares(train, arguments.train_split)
    if arguments.streaming:
        train = train.shuffle(seed, buffer_size=SHUFFLE_BUFFER)
    needs_validation |= arguments.is_given("eval_split")
    with nullcontext() if needs_validation else suppress(UnknownSplit):
        images[arguments.eval_split] = find_images(source, arguments.eval_split, **options)
    measured = arguments.test_split or arguments.eval_split
    if arguments.test_split is not None:
        images[measured] = find_images(source, measured, **options)
    elif emoji_shift.has_classes(classes_of_model(model_config)):
        sets = benchmark_sets(arguments.images_per_set, seed) if arguments.benchmark_sets else {}
        return train, images[arguments.eval_split].rows if arguments.eval_split in images else None, sets
    check_one_numbering(classes_of_model(model_config), {name: of.rows for name, of in images.items()})
    if not arguments.streaming and source != BUNDLED_BENCHMARK:
        with PartialState().main_process_first():
            images = without_copies(images, folder)  # the training keeps its own
    validation, sets = images.get(arguments.eval_split), {}
    if measured in images:
        facts: dict[str, Any] = {"group_weights": weights, "notes": images[measured].notes}
        sets[measured] = EvaluationSet.of(images[measured].rows, source=source, **facts)
    return train, validation and validation.rows, sets


def prepare_datasets(
    train: Dataset | datasets.IterableDataset | None,
    evaluation: Dataset | None,
    augment: Transform,
    transform: Transform,
    config: PreTrainedConfig,
    args: RobustViTConfig,
) -> dict[str, Dataset]:
    """Check both datasets, map their labels to the classes of the model, and add the transforms."""
    if isinstance(evaluation, (dict, datasets.IterableDataset)):
        raise ValueError(
            f"Expected `eval_dataset` to be one table, but got a {type(evaluation).__name__}. Give one `datasets.Dataset`; `robust-vit evaluate` measures several sets."
        )
    check_one_numbering(classes_of_model(config), {"train": train, "eval": evaluation})
    given = {"train": (train, augment), "eval": (evaluation, transform)}
    return {name: _prepare(name, *pair, config, args) for name, pair in given.items() if pair[0] is not None}


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
        dataset, _ = check_rows(dataset, name, config.num_labels, args.bad_masks)
        return dataset.with_transform(with_rows(transform))
    if IntervalStrategy.EPOCH in (args.save_strategy, args.eval_strategy):
        logger.warning(
            "The training images are streamed, so all `max_steps` count as one epoch, and checkpoints and evaluations come only at its "
            "end. For more of them, set `save_strategy` and `eval_strategy` to `steps`, and give `save_steps` and `eval_steps`."
        )
    mapping = label_mapping(class_names_of(dataset.features), classes_of_model(config), source)
    process = (args.process_index, args.world_size)
    return MaskedStream(dataset, transform, config.num_labels, mapping, args.bad_masks, args.seed, *process)


@picklable
def with_rows(transform: Transform) -> Transform:
    """Wrap a transform so that it keeps the number of each row, by which errors name images."""
    return lambda rows: transform(rows) | {"row_index": rows["row_index"]}


class BatchingTrainer(Trainer):
    """Trainer with the batches that a finetuning method needs, also those of a stream."""

    def _check_batches(self) -> None:
        args, images = self.args, len(self.train_dataset) if hasattr(self.train_dataset, "__len__") else 0
        batch_size, at_once = self._train_batch_size, self._train_batch_size * self.args.world_size
        # Several processes fill the last batch up, so it is never short.
        last = 0 if args.dataloader_drop_last or args.world_size > 1 else images % batch_size
        needs_two = ", which needs two images in each batch"
        swaps_images = args.background_swap and self.backgrounds is None
        unmet = {
            f"`background_swap`{needs_two}": swaps_images and 1 in (images, at_once),
            f"`{args.method}`{needs_two}": self.method.mixes_images and 1 in (batch_size, last),
            "`dataloader_drop_last`, which leaves no batch": args.dataloader_drop_last and 0 < images < at_once,
        }
        for option in [option for option, is_unmet in unmet.items() if is_unmet]:
            raise ValueError(
                f"A batch size of {batch_size}, with {images} image{'s' if images > 1 else ''} in all, does not fit {option}. Change `per_device_train_batch_size`."
            )

    def get_train_dataloader(self) -> DataLoader:
        self._check_batches()  # again, since `auto_find_batch_size` may have changed the batch size
        if not isinstance(self.train_dataset, MaskedStream):
            return super().get_train_dataloader()
        args = self.args
        loader = DataLoader(
            self.train_dataset,
            self._train_batch_size,
            collate_fn=partial(_collate, collator=self.data_collator),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        # Each process reads its own rows of a stream. accelerate must not divide them again, nor let one process read all.
        return prepare_data_loader(loader, args.device, 1, 0, put_on_device=True, dispatch_batches=False)

    def _get_dataloader(self, *args, is_training: bool = False, **kwargs) -> DataLoader:
        """As in the Trainer, but apply `dataloader_drop_last` only in training."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As in the Trainer, but remember the sizes of the batches of a step."""
        # When a run that ended within an epoch is resumed, the Trainer would take a step beyond `max_steps`.
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            return [], None
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._sizes_of_step = [len(batch["pixel_values"]) for batch in batches if "pixel_values" in batch]
        return batches, num_items


def name_images(inputs: dict, images: list[int], dataset: Dataset) -> str:
    """Names of images for error messages: rows of the dataset and files. `images` are indices in the batch `inputs`."""
    if "names" in inputs:
        return ", ".join(inputs["names"][image] for image in images)
    if "row_index" not in inputs:
        return f"image {', '.join(map(str, images))} of the batch"
    dataset = undecoded(dataset.with_format(None))
    rows = inputs["row_index"][images].tolist()
    return ", ".join(name_of(dataset[dataset["row_index"][:].index(row)], row) for row in rows)


def _collate(rows: list[dict], collator: Callable[[list], dict]) -> dict:
    names = [row.pop("name") for row in rows]
    return collator(rows) | {"names": names}
