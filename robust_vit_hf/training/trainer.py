"""`Trainer` that finetunes image classifiers: its data, its logs and its card. The loss is in `losses.py`."""

import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, Dataset
from transformers import BaseImageProcessor, PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, default_compute_objective

from ..data.classes import align_labels, check_one_numbering, class_names_of, classes_of_model, label_mapping
from ..data.schema import check_columns, check_rows
from ..data.stream import MaskedStream
from ..data.transforms import Transform, eval_transform, picklable, train_transform
from ..hub.model_card import describe_run, write_card
from ..models.image_processors import load_processor, make_image_processor, resolve_protocol, squash_resample
from ..models.loading import load_model
from ..relevance.architectures import ImageModel, unwrap_pretrained, why_no_map
from ..utils.files import RUN_FILE, weights_written, write_json
from .adapters import add_adapter
from .config import STEP_DECAY, RobustViTConfig, prepare_sharding
from .losses import Method
from .methods import load_method
from .methods.augmentations import load_backgrounds, swap_in_batch


class RobustViTTrainer(Trainer):
    """Finetunes the relevance maps of an image classification model, Eq. 5 of https://huggingface.co/papers/2206.01161.
    `docs/train.md` has the other methods; some, such as `swap`, train any classifier.

    The model's `forward` computes the loss, see [`~robust_vit_hf.training.losses.Method.install`]. Its components, such
    as `relevance_loss`, and `top1` are logged, with the prefix of the set in evaluation and prediction.

    Args:
        model: image classifier, possibly with an adapter; or its name, Hub id or folder.
        args: hyper-parameters. By default those of the paper, and an `output_dir` named after the model.
        train_dataset, eval_dataset: rows with `image`, `mask` and `label`, which get the transforms of this package and
            the model's classes; or rows whose own transform returns `pixel_values` `(3, H, W)`, `mask` `(1, H, W)` in
            [0, 1] and `labels` (-1: none). Streams need `max_steps`. `eval_dataset` may be a dict of sets.
        processing_class: image processor that crops or resizes to one size. By default that of the protocol that
            [`resolve_protocol`] chooses.
        model_init: function that returns such a model, instead of `model`.
        peft_config: `PeftConfig` of an adapter to finetune instead of the weights.
        kwargs: `data_collator`, `compute_metrics`, `callbacks`, `optimizers` and others of [`~transformers.Trainer`].

    Raises:
        ValueError: the model lacks the relevance map of the method, rows are unusable, or weights have half precision.

    Example (README.md has the datasets):
        trainer = RobustViTTrainer("google/vit-base-patch16-224", RobustViTConfig("runs/vit-b"), train, validation)
        trainer.train()
        trainer.save_model()
    """

    def __init__(
        self,
        model: str | nn.Module | None = None,
        args: RobustViTConfig | None = None,
        train_dataset: Dataset | datasets.IterableDataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: BaseImageProcessor | None = None,
        *,
        model_init: Callable[..., nn.Module] | None = None,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs,
    ):
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("`compute_loss_func` takes the labels from the loss: write a `Method`.")
        name = model if isinstance(model, str) else None
        if name is not None:
            model = load_model(name)
            processing_class = processing_class or load_processor(name, resolve_protocol(None, name), model)
        known = unwrap_pretrained(model if model_init is None else _call(model_init, None))  # for its configuration
        if args is None:
            folder = (known.config._name_or_path or type(known).__name__).rstrip("/").rpartition("/")[2]
            args = RobustViTConfig(f"{folder}-robustvit")
        processing_class = processing_class or _processor_of(known)
        transform = eval_transform(processing_class)
        pictures = None if args.backgrounds is None else load_backgrounds(args.backgrounds, transform)
        self.method = load_method(args.method)(args, partial(swap_in_batch, args=args, pictures=pictures))

        def with_loss(model: nn.Module) -> nn.Module:
            if peft_config is not None:
                model = add_adapter(model, peft_config, name)
            if half := {p.dtype for p in model.parameters() if p.requires_grad} - {torch.float32}:
                kinds = ", ".join(map(str, half))
                raise ValueError(
                    f"Weights in {kinds} round small steps to zero: load them with `dtype=torch.float32`."
                )
            return self.method.install(model)

        start = StartAndEnd(self.method)
        prepared = partial(_prepared, config=known.config, args=args)
        # A `MaskedStream` sets the random state for each row.
        is_stream = isinstance(train_dataset, datasets.IterableDataset)
        seed_of_row = None if is_stream else partial(_seed_of_row, args.seed, start.epoch)
        augment = train_transform(processing_class, seed_of_row, squash_resample(processing_class))
        sets = eval_dataset if isinstance(eval_dataset, dict) else {"eval": eval_dataset}
        check_one_numbering(classes_of_model(known.config), {"train": train_dataset, **sets})
        sets = {of: prepared(rows, transform, name="eval") for of, rows in sets.items()}
        self._prepare_rows = partial(prepared, transform=transform)  # of other sets
        super().__init__(
            None if model is None else with_loss(model),
            args,
            train_dataset=prepared(train_dataset, augment, name="train"),
            eval_dataset=sets if isinstance(eval_dataset, dict) else sets["eval"],
            processing_class=processing_class,
            model_init=None if model_init is None else lambda trial: with_loss(_call(model_init, trial)),
            callbacks=[start, *(callbacks or [])],
            **kwargs,
        )
        second_derivative = self.method.second_derivative and not getattr(args, "released_gradients", False)
        prepare_sharding(self.accelerator, self.model, args.second_order or second_derivative)
        self._card_facts: dict[str, object] = {}  # arguments of `create_model_card`

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        return super().get_eval_dataloader(self._prepare_rows(eval_dataset, name="eval"))

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        return super().get_test_dataloader(self._prepare_rows(test_dataset, name="test"))

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of all parameters: like the released code, decay biases and norms too."""
        return [name for name, _ in model.named_parameters()]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Schedule of the Trainer, or `step_decay`, as in the released code. The rate of a stream is constant."""
        args = self.args
        if self.lr_scheduler is None and args.lr_scheduler_type == STEP_DECAY:
            every, batch_size = num_training_steps + 1, self._train_batch_size * args.world_size
            if hasattr(self.train_dataset, "__len__"):
                batches = len(self.train_dataset) / batch_size
                batches = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
                every = args.lr_decay_every * max(1, math.ceil(batches / args.gradient_accumulation_steps))
            self.lr_scheduler = StepLR(optimizer or self.optimizer, every, args.lr_decay_rate)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def evaluation_loop(
        self, dataloader: DataLoader, description: str, *args, metric_key_prefix: str = "eval", **kwargs
    ) -> EvalLoopOutput:
        """The Trainer's loop, with the mean loss and its components over the images in its metrics."""
        self.method.begin(self.model, training=False)
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        # Several processes pad the last batch with the first images, which are cut off here.
        values = self.method.read_values(training=False, count=output.num_samples)
        if not values and description == "Evaluation" and f"{metric_key_prefix}_loss" in output.metrics:
            raise ValueError("There is no `mask` in the batches of this evaluation, without which there is no loss.")
        if self.hp_search_backend is not None and self.compute_objective is default_compute_objective:
            values = {name: value for name, value in values.items() if name == "loss"}  # it sums up all other metrics
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in values.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean components of the loss in addition to the loss of the training."""
        if "loss" in logs:
            logs |= {name: value for name, value in self.method.read_values(training=True).items() if name != "loss"}
        super().log(logs, start_time)

    def training_classes(self) -> frozenset[int] | None:
        """Classes of the training images; `None` if they are not a table with labels."""
        rows = self.train_dataset
        known = isinstance(rows, datasets.Dataset) and "label" in rows.column_names
        return frozenset(rows.with_format(None)["label"][:]) if known else None

    def create_model_card(self, language: str | None = None, **facts: Any) -> None:
        """Write `run.json` to the `output_dir`, and `README.md` from it and the results. Earlier arguments are kept.

        Args:
            language, facts: as in `Trainer.create_model_card`; and `masks`, how they were made, `protocol` of the image
                processor, the default of later commands, `revision` on the Hub, and `adapter`, which was trained.
        """
        given = facts | {"language": language}
        self._card_facts |= {name: value for name, value in given.items() if value is not None}
        if self.is_world_process_zero():
            write_json(Path(self.args.output_dir, RUN_FILE), describe_run(self, self._card_facts))
            write_card(Path(self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        """As in the Trainer, after the card, which each push to the Hub takes with it."""
        if trial is None and not self.is_fsdp_enabled:
            self.create_model_card()
        with weights_written(Path(self.args.output_dir)):  # torch reports a full disk as an "unexpected pos"
            super()._save_checkpoint(model, trial)


class StartAndEnd(TrainerCallback):
    """Gives a training its loss, and afterwards the model its attention. Workers of data loaders read the epoch from
    shared memory: crops follow from seed, epoch and row, and not from the number of processes and workers."""

    def __init__(self, method: Method):
        self.method, self.epoch = method, torch.zeros((), dtype=torch.int64).share_memory_()

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.method.begin(model, training=True)
        self.attention = ImageModel(model).attention

    def on_train_end(self, args, state, control, model, **kwargs):
        ImageModel(model).attention = self.attention

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.epoch.fill_(int(state.epoch))


def _seed_of_row(seed: int, epoch: torch.Tensor, row: int) -> tuple[int, int, int]:
    return seed, int(epoch), row


def _call(model_init: Callable[..., nn.Module], trial: Any) -> nn.Module:
    return model_init(trial) if inspect.signature(model_init).parameters else model_init()


def _prepared(
    rows: Any, transform: Transform, name: Literal["train", "eval", "test"], config: Any, args: RobustViTConfig
) -> Any:
    """Rows of images and masks with the model's classes and the transform. Other rows, and those with a transform, are
    returned as they are. Rows without a use for the loss are left out or rejected, except for predictions (`test`)."""
    columns = rows.column_names or () if isinstance(rows, (datasets.Dataset, datasets.IterableDataset)) else ()
    if "image" not in columns or "pixel_values" in columns:
        return rows
    if (getattr(rows, "format", None) or {}).get("type") == "custom":  # a transform
        return rows
    if name != "test":  # predictions need only images
        check_columns(rows, name, ("label", "mask") if args.needs_labels else ("mask",))
        transform = with_labels(transform)
    source = f"{name} dataset"
    if isinstance(rows, datasets.IterableDataset):
        mapping = label_mapping(class_names_of(rows.features), classes_of_model(config), source)
        return MaskedStream(rows, name, transform, config.num_labels, mapping, args.bad_masks, args.seed)
    rows = align_labels(rows, classes_of_model(config), source)
    if name == "train":
        rows = rows.add_column("row_index", range(len(rows)))
    if name != "test":
        rows, _ = check_rows(rows, name, config.num_labels, args.bad_masks)
    return rows.with_transform(transform)


@picklable
def with_labels(transform: Transform) -> Transform:
    """Wrap a transform so that rows without a label get -1, by which `datasets` marks them."""
    return lambda rows: {"labels": [-1] * len(rows["image"])} | transform(rows)


def _processor_of(model: PreTrainedModel) -> BaseImageProcessor:
    source, config = model.config._name_or_path, ImageModel(model).vision_config
    if source and resolve_protocol(None, source) == "model":
        with suppress(OSError):
            return load_processor(source, "model", model)
    if why_no_map(model) or not hasattr(config, "image_size"):
        raise ValueError(f"`{type(model).__name__}` has no known image processor: give `processing_class`.")
    return make_image_processor("paper", config.image_size)
