"""`Trainer` for finetuning vision transformers with the losses of a method."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING

import datasets
import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import BaseImageProcessor, EvalPrediction, PreTrainedModel, TrainerCallback, default_data_collator
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import EvalLoopOutput, IntervalStrategy

from ..data.composition import is_background
from ..data.stream import MaskedStream
from ..data.transforms import eval_transform
from ..models.loading import load_model
from ..models.preprocessing import load_processor, make_image_processor, resolve_preset
from ..relevance.architectures import VisionTransformer, unwrap_pretrained
from ..relevance.attention import EXPLICIT_ATTENTION, switched_attention
from ..relevance.linear_memory import has_linear_memory
from ..relevance.relevance_map import forward_logits
from ..results.metrics.robust_accuracy import RobustAccuracy
from ..utils.images import input_size
from .adapters import add_adapter
from .background_swap import BackgroundPool, swap_backgrounds
from .callbacks import RelevanceTensorBoardCallback, SharedEpoch
from .config import RobustViTConfig
from .interrupts import outlive_signals
from .methods import load_method
from .prepared_datasets import prepare_datasets, with_rows
from .reliable_trainer import ReliableTrainer
from .sharding import prepare_sharding


if TYPE_CHECKING:
    from peft import PeftConfig


class RobustViTTrainer(ReliableTrainer):
    """Finetunes the relevance maps of an image classification model, Eq. 5 of
    https://huggingface.co/papers/2206.01161, or trains another `method` of `docs/methods.md`.

    Logs `background_loss`, `foreground_loss`, `relevance_loss` (or the components of the method), `confidence_loss`
    and `top1` beside `loss`, for training and evaluation (with the prefix `eval_`), and `original_top1`, the accuracy
    before the first step, without augmentation, except on streams.

    Args:
        model: image classification model over one patch grid, with or without a PEFT adapter, or its name, Hub id or
            folder, as for [`load_model`].
        args: hyper-parameters; by default those of the paper, with an `output_dir` named after the model.
        train_dataset, eval_dataset: rows with `image`, `mask` and `label`, which are checked here and transformed to
            match `processing_class`. A `train_dataset` may be a stream, a `datasets.IterableDataset`, already
            shuffled: its rows are checked on the fly, see [`MaskedStream`]; it requires `max_steps`, which count as
            one epoch over any number of passes. A dataset that yields `pixel_values` `(3, H, W)`, `mask` `(1, H, W)`
            in [0, 1] and `labels` is used unchanged.
        processing_class: image processor that crops, or resizes to one size; saved with the model. By default that of
            the preset of [`resolve_preset`]: the one saved with the model, but the `paper` preset for the registered
            models and for a model in memory whose source has none. See [`make_image_processor`].
        data_collator, compute_metrics, callbacks, optimizers, optimizer_cls_and_kwargs, preprocess_logits_for_metrics:
            as in [`~transformers.Trainer`].
        peft_config: adapter to finetune instead of the weights.

    Raises:
        ValueError: the architecture has no relevance maps, rows are unusable, or the image size is not a multiple of
            the patch size. Raised before the first step, except for rows of a stream.

    Example:
        >>> import torch
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from robust_vit_hf import RobustViTConfig, RobustViTTrainer
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        >>> model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8))
        >>> mask = torch.zeros(1, 32, 32)
        >>> mask[:, 8:24, 8:24] = 1
        >>> rows = [{"pixel_values": torch.rand(3, 32, 32), "mask": mask, "labels": index % 2} for index in range(8)]
        >>> quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True}
        >>> config = RobustViTConfig("runs/example", num_train_epochs=1, eval_strategy="no", save_strategy="no",
        ...     load_best_model_at_end=False, **quiet)
        >>> trainer = RobustViTTrainer(model, config, rows)
        >>> output = trainer.train()  # doctest: +ELLIPSIS
        {...}
        >>> output.global_step
        1
    """

    # The loss is a mean over the batch, so the Trainer must divide it by the accumulation steps. It does not by
    # default: it infers from **kwargs in a ViT's `forward` that the model normalises its own loss.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: str | nn.Module,
        args: RobustViTConfig | None = None,
        train_dataset: Dataset | datasets.IterableDataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: BaseImageProcessor | None = None,
        *,
        data_collator: Callable[[list], dict] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict] | None = None,
        preprocess_logits_for_metrics: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        peft_config: "PeftConfig | None" = None,
    ):
        name = model if isinstance(model, str) else None
        if name is not None:
            model = load_model(name)
            processing_class = processing_class or load_processor(name, resolve_preset(None, name), model)
        vit = VisionTransformer(model)
        config = vit.pretrained.config
        if args is None:
            path = config._name_or_path or vit.name
            args = RobustViTConfig(f"{path.rstrip('/').rpartition('/')[2]}-robustvit")
        if processing_class is None:
            processing_class = _processor_of(vit.pretrained)
        if peft_config is not None:
            model = add_adapter(model, peft_config, name)
        _check(vit, args, eval_dataset, processing_class)
        epoch = SharedEpoch()
        prepared = prepare_datasets(train_dataset, eval_dataset, processing_class, config, args, epoch)
        super().__init__(
            model,
            args,
            data_collator=data_collator or _collate_images,
            train_dataset=prepared.get("train"),
            eval_dataset=prepared.get("eval"),
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        self.model_accepts_loss_kwargs = False
        self.backgrounds = None if args.backgrounds is None else BackgroundPool(args.backgrounds, processing_class)
        self.method = load_method(args.method)(args)
        self._check_batches()
        second_derivative = self.method.second_derivative and not args.released_gradients
        prepare_sharding(self.accelerator, model, args, args.second_order or second_derivative)
        self._train_values: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._eval_values: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._sizes_of_step: list[int] = []  # images of its batches; empty outside a training
        self._batch_of_step = (0, 0)  # number of the step, and of the batch within its accumulation
        self._adapter = next(iter(getattr(model, "peft_config", {}).values()), None)  # may be merged later
        self._body = []  # frozen in the `head_epochs`; else not kept, since FSDP2 replaces and frees them
        if args.head_epochs:
            self._body = [p for p in unwrap_pretrained(model).base_model.parameters() if p.requires_grad]
        self._keep_original(prepared)
        self.add_callback(epoch)
        self._strips = None
        if self.pop_callback(TensorBoardCallback) is not None and prepared:
            self._strips = RelevanceTensorBoardCallback(self.eval_dataset or self.train_dataset, processing_class)
            self.add_callback(self._strips)

    def _check_batches(self) -> None:
        """Refuse methods and a swap that need other images, where there are none.

        Raises:
            ValueError: there is one training image; or the method mixes the images of a batch, and one has a single image; or
                `auto_find_batch_size` has found memory for one image alone.
        """
        args, images = self.args, len(self.train_dataset) if hasattr(self.train_dataset, "__len__") else 0
        batch_size = self._train_batch_size
        swaps = args.background_swap and self.backgrounds is None
        needs_two = self.method.mixes_images or (swaps and args.world_size == 1)
        if batch_size == 1 < args.train_batch_size and needs_two:
            raise ValueError(
                "`auto_find_batch_size` has found memory for a batch of one image, and "
                f"`{args.method if self.method.mixes_images else 'background_swap'}` needs two: take a smaller model or "
                "`image_size`, or activation checkpointing."
            )
        if swaps and 1 in (images, batch_size * args.world_size):
            raise ValueError(
                f"`background_swap` takes the background of another image, and {'the train dataset' if images == 1 else 'a batch'} "
                "has one image: give more, or a folder of `backgrounds`."
            )
        # Several processes fill up the last batch.
        last = 0 if args.dataloader_drop_last or args.world_size > 1 else images % batch_size
        if self.method.mixes_images and self.train_dataset is not None and 1 in (batch_size, last):
            raise ValueError(
                f"`{args.method}` mixes the images of a batch, and {f'the last batch of {images} images' if last else 'a batch'} has "
                "one: give another `per_device_train_batch_size`" + (", or `dataloader_drop_last`." if last else ".")
            )

    def _keep_original(self, prepared: dict[str, Dataset]) -> None:
        """Keep what is needed for the original model's accuracy and logits."""
        self._original_top1: dict[str, float] = {}
        self._measured_on = {name: rows for name, rows in prepared.items() if not isinstance(rows, MaskedStream)}
        train = prepared.get("train")
        if isinstance(train, datasets.Dataset) and "pixel_values" not in train.column_names:
            self._measured_on["train"] = train.with_transform(with_rows(eval_transform(self.processing_class)))
        self._original = None  # frozen copy of the starting model, unless that is the model with its adapter disabled
        if self.args.confidence_target == "original" and not self._is_original_when_disabled():
            original = deepcopy(self.model).requires_grad_(False)
            self._original = self.accelerator.prepare_model(original, evaluation_mode=True).eval()

    def _is_original_when_disabled(self) -> bool:
        """Whether the model with its adapter disabled is the starting model, and stays so. It is not with an adapter that was
        trained before or whose initialisation changed the base (PiSSA, OLoRA, …), and does not stay so where biases of the base
        are trained."""
        if self._adapter is None:
            return False
        model, device = deepcopy(self.model).eval(), next(self.model.parameters()).device
        size = (1, 3, *input_size(self.processing_class))
        pixel_values = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(device)
        start = forward_logits(model, pixel_values)
        with model.disable_adapter():
            disabled = forward_logits(model, pixel_values)
        return not disabled.requires_grad and torch.allclose(disabled, start, rtol=1e-4, atol=1e-5)

    def describe_method(self) -> dict[str, str]:
        """Text descriptions of losses, schedule and adapter, for the model card."""
        method = self.args.describe()
        if isinstance(self.train_dataset, MaskedStream) and self.args.lr_scheduler_type == "constant":
            method["learning rate"] = f"{self.args.learning_rate:g}, constant"  # a stream is one epoch
        if self._adapter is not None:
            rank = f" of rank {self._adapter.r}" if getattr(self._adapter, "r", None) else ""
            merged = "" if hasattr(self.model, "peft_config") else ", merged"
            method["adapter"] = f"{self._adapter.peft_type.value}{rank}{merged}"
        if self.skipped_batches:
            method["batches left out"] = f"{self.skipped_batches}, whose loss was not finite"
        return method

    def merge_adapter(self) -> None:
        """Replace the model by its base with the adapter merged into it."""
        self.model = self.model_wrapped = self.accelerator.unwrap_model(self.model).merge_and_unload()

    def _losses_per_image(self, model: nn.Module, inputs: dict) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Components `(B,)` of each image's loss, including `loss` and `top1`, and the logits `(B, C)`."""
        args, labels = self.args, inputs.get("labels")
        if labels is None and args.needs_labels:
            raise ValueError(
                f"A batch has no `labels`; it has {', '.join(inputs)}. The loss needs the class of each image: name it `labels`, or "
                "take another `method`, `relevance_target` or `confidence_target`."
            )
        if "mask" not in inputs:
            raise ValueError(f"A batch has no `mask`; it has {', '.join(inputs)}. Each row needs a `mask` (1, H, W).")
        low, high = inputs["mask"].aminmax()
        if low < 0 or high > 1:
            raise ValueError(f"A mask has values from {low:g} to {high:g}; expected 0 (background) to 1 (foreground).")
        pixel_values = inputs["pixel_values"]
        targets = {"label": labels, "prediction": None}
        if args.confidence_target == "original":
            targets["original"] = self._original_logits(pixel_values)
        if model.training and args.background_swap:
            # Among the images of all processes, so that the number of processes does not matter.
            everything = self.accelerator.gather((pixel_values, inputs["mask"]))
            seed, images = (args.seed, *self._batch_of_step), len(everything[0])
            if images == 1 and self.backgrounds is None and hasattr(self.train_dataset, "__len__"):
                everything = self._with_another_image(*everything, seed)
            swapped = swap_backgrounds(*everything, args.background_swap, seed, self.backgrounds)
            pixel_values = swapped[:images].tensor_split(args.world_size)[args.process_index]
        values, logits = self.method.per_image(model, pixel_values, inputs["mask"], targets)
        if labels is not None:
            values["top1"] = (logits.argmax(dim=1) == labels).float()
        return values, logits

    def _with_another_image(
        self, pixel_values: torch.Tensor, mask: torch.Tensor, seed: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The image `(1, 3, H, W)` and mask of a last batch that has no other, with those of a training image drawn at random: the
        first one that is another and has a background."""
        for place in np.random.default_rng(seed).permutation(len(self.train_dataset)).tolist():
            row = self._prepare_inputs(self.data_collator([self.train_dataset[place]]))
            if not torch.equal(row["pixel_values"], pixel_values) and is_background(row["mask"]).any():
                return torch.cat([pixel_values, row["pixel_values"]]), torch.cat([mask, row["mask"]])
        return pixel_values, mask

    @torch.no_grad()
    def _original_logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits `(B, C)` of the model before finetuning, without dropout."""
        with self.accelerator.autocast():
            if self._original is not None:
                return forward_logits(self._original, pixel_values)
            model = self.accelerator.unwrap_model(self.model)
            was_training = model.training
            with model.eval().disable_adapter():
                logits = forward_logits(model, pixel_values)
            model.train(was_training)
            return logits

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean loss of the batch, and with `return_outputs` a dict of its `logits`."""
        values, logits = self._losses_per_image(model, inputs)
        self.check_losses(values["loss"])
        if model.training:
            for name, value in values.items():
                self._train_values[name].append(value.detach().mean())
        loss = values["loss"].mean()
        if model.training and self._sizes_of_step:
            # The Trainer takes the mean over the batches of a step; so it is that over its images.
            loss = loss * (len(values["loss"]) * len(self._sizes_of_step) / sum(self._sizes_of_step))
        return (loss, {"logits": logits}) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As in the Trainer; remembers the sizes of the batches of a step, of which the last one may be smaller."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._sizes_of_step = [len(batch["pixel_values"]) for batch in batches if "pixel_values" in batch]
        return batches, num_items

    def training_step(self, model, inputs, num_items_in_batch=None):
        step, batch = self._batch_of_step
        self._batch_of_step = (self.state.global_step, batch + 1 if step == self.state.global_step else 0)
        vit = VisionTransformer(model)
        for parameter in self._body:
            parameter.requires_grad_(self.state.global_step >= self._head_steps)
        if not vit.is_checkpointing:
            return super().training_step(model, inputs, num_items_in_batch)
        grid = vit.patch_grid(tuple(inputs["pixel_values"].shape[2:]))
        linear = has_linear_memory(vit, grid[0] * grid[1], self.args.second_order)
        if linear and not self.method.second_derivative:
            return super().training_step(model, inputs, num_items_in_batch)
        # Activation checkpointing recomputes attention in backward, so keep the implementation until then.
        with switched_attention(vit, EXPLICIT_ATTENTION):
            return super().training_step(model, inputs, num_items_in_batch)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All parameters: the released code also decays biases and norms."""
        return [name for name, _ in model.named_parameters()]

    @property
    def _steps_per_epoch(self) -> int:
        args = self.args
        if isinstance(self.train_dataset, MaskedStream):
            return args.max_steps
        images, batch_size = len(self.train_dataset), self._train_batch_size * args.world_size
        batches = images // batch_size if args.dataloader_drop_last else -(-images // batch_size)
        return max(1, -(-batches // args.gradient_accumulation_steps))

    @property
    def _head_steps(self) -> int:
        """Number of steps at the beginning in which only the head is trained."""
        return round(self.args.head_epochs * self._steps_per_epoch)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Learning rate × `lr_decay_rate` every `lr_decay_every` epochs; other scheduler types as in the Trainer."""
        args = self.args
        if self.lr_scheduler is None and args.lr_scheduler_type == "constant":
            steps_per_epoch, head_steps = self._steps_per_epoch, self._head_steps
            of_head = args.rate_of_head / (args.learning_rate or 1.0)

            def factor(step: int) -> float:
                decay = args.lr_decay_rate ** (step // steps_per_epoch // args.lr_decay_every)
                return decay * of_head if step < head_steps else decay

            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factor)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def get_train_dataloader(self) -> DataLoader:
        self._check_batches()  # again with the batch size that `auto_find_batch_size` found
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
            # Older releases of transformers lack these two.
            multiprocessing_context=getattr(args, "dataloader_multiprocessing_context", None),
            in_order=getattr(args, "dataloader_in_order", True),
        )
        # The rows are already shared: accelerate must not split them again, or let one process read all.
        loader = prepare_data_loader(loader, args.device, 1, 0, put_on_device=True, dispatch_batches=False)
        outlive_signals(loader)
        return loader

    def set_initial_training_values(self, args, dataloader):
        num_train_epochs, *others = super().set_initial_training_values(args, dataloader)
        # The Trainer expects streams to end, and would start another epoch when a finished run is resumed.
        return (1 if isinstance(self.train_dataset, MaskedStream) else num_train_epochs, *others)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        # The released code runs a copy of the original model in every step to log its accuracy. Here, this model is
        # the original before the first step, also on resuming.
        if not self._original_top1 and self.args.logging_strategy != IntervalStrategy.NO:
            self._original_top1 = {mode: self._top1(dataset) for mode, dataset in self._measured_on.items()}
        first = self.is_world_process_zero() or self.is_fsdp_enabled
        if self._strips is not None and self._strips.before is None and self.args.relevance_strip_steps and first:
            self._strips.measure_before(self.model)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self._sizes_of_step = []

    @torch.no_grad()
    def _top1(self, dataset: Dataset) -> float | None:
        """Accuracy of the model on a dataset, as a fraction; `None` without labels."""
        accuracy, model = RobustAccuracy(), self.model.to(self.args.device).eval()
        # Not the evaluation loader, which is kept for later evaluations with persistent workers.
        for batch in self.get_test_dataloader(dataset):
            if "labels" not in batch:
                return None
            with self.accelerator.autocast():
                logits = forward_logits(model, batch["pixel_values"])
            if self.args.on_nan == "stop":
                advice = "Look at the image; `on_nan='skip'` leaves such batches out."
                self.check_batch("Before the first step", "prediction", logits, batch, dataset, advice)
            logits, labels = self.accelerator.gather_for_metrics((logits.float(), batch["labels"]))
            if self.args.on_nan == "skip":
                finite = logits.isfinite().all(dim=1)
                logits, labels = logits[finite], labels[finite]
            accuracy.update(logits, labels)
        return accuracy.compute()["top1"] if accuracy.num_images else None

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Loss, logits and labels of a batch. The Trainer's method needs labels, and gathers all outputs."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            values, logits = self._losses_per_image(model, inputs)
        self.check_batch("Validation", "loss", values["loss"], inputs)
        for name, value in values.items():
            self._eval_values[name].append(self.accelerator.gather_for_metrics(value))
        loss = values["loss"].mean()
        return (loss, None, None) if prediction_loss_only else (loss, logits, inputs.get("labels"))

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        """The Trainer's loop, with the mean loss components in its metrics; each image counts once. The training draws the
        same random numbers with it and without it: a signal can put it off until after a checkpoint is saved."""
        self._eval_values.clear()
        with torch.random.fork_rng(devices=[]):  # an iterator of a data loader draws one on the CPU
            output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        for name, values in self._eval_values.items():
            output.metrics[f"{metric_key_prefix}_{name}"] = torch.cat(values).mean().item()
        if dataloader.dataset is self.eval_dataset and self._original_top1.get("eval") is not None:
            output.metrics[f"{metric_key_prefix}_original_top1"] = self._original_top1["eval"]
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log `logs`, and with a training loss also its components' means since the last log."""
        if "loss" in logs:
            if not self._train_values["loss"]:
                logs["loss"] = float("nan")  # all batches since the last log were skipped
            for name, values in self._train_values.items():
                if name != "loss" and values:
                    logs[name] = self.accelerator.reduce(torch.stack(values).mean(), "mean").item()
            if self._original_top1.get("train") is not None:
                logs["original_top1"] = self._original_top1["train"]
            self._train_values.clear()
        super().log(logs, start_time)


def _processor_of(model: PreTrainedModel) -> BaseImageProcessor:
    """Image processor of a model in memory: of its source if that has one, else the paper's."""
    source = model.config._name_or_path
    if source and resolve_preset(None, source) == "model":
        with suppress(OSError):
            return load_processor(source, "model", model)
    return make_image_processor("paper", model.config.image_size)


def _check(vit: VisionTransformer, args: RobustViTConfig, eval_dataset: object, processor: BaseImageProcessor) -> None:
    """Refuse models, processors and settings that cannot be trained or measured."""
    size = input_size(processor)
    half = {p.dtype for p in vit.model.parameters() if p.requires_grad} - {torch.float32}
    if half:
        raise ValueError(
            f"The model's weights are {', '.join(map(str, half))}, in which steps of this size are rounded to zero. Load "
            "it with `dtype=torch.float32`, and give `bf16=True` for speed."
        )
    if args.n_gpu > 1:
        raise ValueError("One process for several GPUs is not supported: start one each with `accelerate launch`.")
    vit.patch_grid(size)
    vit.check_start_layer(args.start_layer or 0)
    if isinstance(eval_dataset, dict):
        raise ValueError("Expected one `eval_dataset`, but got a dict. Call `measure_accuracy` for several.")


def _collate_images(rows: list[dict]) -> dict:
    """Collate images of one size, as a batch must have."""
    sizes = sorted({tuple(torch.as_tensor(row["pixel_values"]).shape) for row in rows if "pixel_values" in row})
    if len(sizes) > 1:
        raise ValueError(f"A batch has `pixel_values` of different shapes, {sizes}: give all images one size.")
    return default_data_collator(rows)


def _collate(rows: list[dict], collator: Callable[[list], dict]) -> dict:
    """Collate a batch, with the rows' `names` (text)."""
    names = [row.pop("name") for row in rows]
    return collator(rows) | {"names": names}
