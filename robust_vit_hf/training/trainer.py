"""`Trainer` that finetunes image classifiers with the losses of a method."""

from collections import defaultdict
from contextlib import ExitStack, nullcontext, suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import EvalLoopOutput, IntervalStrategy, SaveStrategy

from ..data.stream import MaskedStream
from ..data.transforms import eval_transform, train_transform
from ..metrics.robust_accuracy import RobustAccuracy
from ..models.image_processors import load_processor, make_image_processor, resolve_protocol, squash_resample
from ..models.loading import load_model
from ..relevance.architectures import ImageModel, VisionTransformer, why_no_map
from ..relevance.attention import EXPLICIT_ATTENTION, switched_attention
from ..relevance.linear_memory import has_linear_memory
from ..relevance.relevance_map import forward_logits
from ..utils.stage import folder_lock
from . import callbacks
from .checkpoints import CheckpointingTrainer, TrainingDiverged, add_adapter, base_digest, last_checkpoint
from .config import RobustViTConfig, prepare_sharding
from .load_data import BatchingTrainer, name_images, prepare_datasets, with_rows
from .methods import load_method
from .methods.augmentations import BackgroundPool, swap_backgrounds
from .methods.base import check_has_map
from .publishing import PublishingTrainer


class RobustViTTrainer(BatchingTrainer, CheckpointingTrainer, PublishingTrainer):
    """Finetunes the relevance maps of an image classification model, Eq. 5 of
    https://huggingface.co/papers/2206.01161. `docs/train.md` has the other methods; some, such as `swap`, train any classifier.

    In addition to `loss`, it logs the components of the loss (such as `background_loss`, `foreground_loss`,
    `relevance_loss` and `confidence_loss`) and `top1`, with the prefix `eval_` in evaluation; and `original_top1`, the
    accuracy before the first step on images without augmentation, except on streams.

    Args:
        model: image classifier, possibly with an adapter; or its name, Hub id or folder.
        args: hyper-parameters. By default those of the paper, and an `output_dir` named after the model.
        train_dataset, eval_dataset: rows with `image`, `mask` and `label`, which are checked and transformed here; or
            rows with `pixel_values` `(3, H, W)`, `mask` `(1, H, W)` in [0, 1] and `labels`. A stream for training must
            be shuffled, and needs `max_steps`, see [`MaskedStream`].
        processing_class: image processor that crops or resizes to one size. By default that of the protocol that
            [`resolve_protocol`] chooses.
        peft_config: `PeftConfig` of an adapter to finetune instead of the weights.
        kwargs: `data_collator`, `compute_metrics`, `callbacks`, `optimizers` and others of [`~transformers.Trainer`].

    Raises:
        ValueError: the method trains relevance maps and the model has none, rows are unusable, or the image size is not
            a multiple of the patch size. Raised before the first step, except for rows of a stream.

    Example (README.md has the datasets):
        trainer = RobustViTTrainer("google/vit-base-patch16-224", RobustViTConfig("runs/vit-b"), train, validation)
        trainer.train()
    """

    # The loss is a mean over the batch, so the Trainer must divide it by the accumulation steps. By default it would
    # not, since it infers from the **kwargs of a ViT's `forward` that the model normalises its own loss.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: str | nn.Module,
        args: RobustViTConfig | None = None,
        train_dataset: Dataset | datasets.IterableDataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: BaseImageProcessor | None = None,
        *,
        peft_config: Any = None,
        **kwargs,
    ):
        name = model if isinstance(model, str) else None
        if name is not None:
            model = load_model(name)
            processing_class = processing_class or load_processor(name, resolve_protocol(None, name), model)
        known = ImageModel(model)
        config = known.pretrained.config
        if args is None:
            args = RobustViTConfig(f"{(config._name_or_path or known.name).rstrip('/').rpartition('/')[2]}-robustvit")
        check_has_map(model, args.method, args.relevance_weight)
        processing_class = processing_class or _processor_of(known.pretrained)
        if known.timm_model is not None and not hasattr(processing_class, "data_config"):
            vars(config).pop("pretrained_cfg", None)  # transformers would read the preprocessing from it
        if peft_config is not None:
            model = add_adapter(model, peft_config, name)
        if half := {p.dtype for p in model.parameters() if p.requires_grad} - {torch.float32}:
            raise ValueError(
                f"The weights of the model are in {', '.join(map(str, half))}, which rounds small steps to zero. Load them with "
                "`dtype=torch.float32`; for speed, set `bf16=True`."
            )
        epoch = callbacks.SharedEpoch()
        streamed = isinstance(train_dataset, datasets.IterableDataset)  # a stream draws crops and flips by itself
        seed_of_row = None if streamed else partial(_seed_of_row, args.seed, epoch.number)
        augment = train_transform(processing_class, seed_of_row, squash_resample(processing_class))
        self._transform = eval_transform(processing_class)
        prepared = prepare_datasets(train_dataset, eval_dataset, augment, self._transform, config, args)
        super().__init__(
            model,
            args,
            train_dataset=prepared.get("train"),
            eval_dataset=prepared.get("eval"),
            processing_class=processing_class,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False
        self.backgrounds = None if args.backgrounds is None else BackgroundPool(args.backgrounds, self._transform)
        self.method = load_method(args.method)(args)
        self._check_batches()
        second_derivative = self.method.second_derivative and not args.released_gradients
        prepare_sharding(self.accelerator, model, args, args.second_order or second_derivative)
        self._train_values: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._eval_values: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._sizes_of_step: list[int] = []  # number of images in each batch of the step; empty outside training
        self._batch_of_step = (0, 0)  # numbers of the step, and of the batch within the step
        self._card_facts: dict[str, object] = {}  # arguments of `create_model_card`
        # For the card, even if it is merged.
        self._adapter = next(iter(getattr(model, "peft_config", {}).values()), None)
        self._base_digest = base_digest(model) if args.should_save else None
        # Weights to freeze in the `head_epochs`. Without these, no weights are kept here, since FSDP2 replaces and frees them.
        self._body = [p for p in known.body if p.requires_grad and args.head_epochs]
        self._has_map = why_no_map(model) is None
        self._keep_original(prepared)
        self._validated: dict[int, dict[str, float]] = {}  # metrics of `eval_dataset` by step
        self.time, self._interrupt = callbacks.TrainingTime(), callbacks.InterruptCallback()
        for callback in (self.time, self._interrupt, callbacks.MissedEvaluation(self), epoch):
            self.add_callback(callback)
        if self.pop_callback(TensorBoardCallback) is not None:
            self.add_callback(callbacks.TensorBoardWithoutHostName())

    def _keep_original(self, prepared: dict[str, Dataset]) -> None:
        self._original_top1: dict[str, float] = {}
        self._measured_on = {name: rows for name, rows in prepared.items() if not isinstance(rows, MaskedStream)}
        train = prepared.get("train")
        if isinstance(train, datasets.Dataset) and "pixel_values" not in train.column_names:
            self._measured_on["train"] = train.with_transform(with_rows(self._transform))
        self._original = None  # frozen copy of the starting model
        if self.args.confidence_target == "original":
            original = deepcopy(self.model).requires_grad_(False)
            self._original = self.accelerator.prepare_model(original, evaluation_mode=True).eval()

    @torch.no_grad()
    def _top1(self, dataset: Dataset) -> float | None:
        accuracy, model = RobustAccuracy(), self.model.to(self.args.device).eval()
        # The evaluation loader would keep its persistent workers, so this takes the test loader.
        for batch in self.get_test_dataloader(dataset):
            if "labels" not in batch:
                return None
            with self.accelerator.autocast():
                logits = forward_logits(model, batch["pixel_values"])
            self._check_finite("Before the first step", "prediction", logits, batch, dataset)
            accuracy.update(*self.accelerator.gather_for_metrics((logits.float(), batch["labels"])))
        return accuracy.compute()["top1"]

    def _losses_per_image(self, model: nn.Module, inputs: dict) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Components `(B,)` of the loss of each image, by name, and the logits `(B, C)`."""
        args, labels = self.args, inputs.get("labels")
        if labels is None and args.needs_labels:
            raise ValueError(
                f"Expected `labels` in each batch, but got only {', '.join(inputs)}. Add `labels`, or choose a `method` or targets "
                "without labels."
            )
        low, high = inputs["mask"].aminmax()
        if low < 0 or high > 1:
            raise ValueError(f"Expected masks from 0 (background) to 1 (foreground), but got {low:g} to {high:g}.")
        pixel_values = inputs["pixel_values"]
        targets = {"label": labels, "prediction": None}
        if args.confidence_target == "original":
            with torch.no_grad(), self.accelerator.autocast():
                targets["original"] = forward_logits(self._original, pixel_values)
        if model.training and args.background_swap:
            # Swap among the images of all processes, so that the result does not depend on their number.
            images, masks = self.accelerator.gather((pixel_values, inputs["mask"]))
            seed = (args.seed, *self._batch_of_step)
            swapped = swap_backgrounds(images, masks, args.background_swap, seed, self.backgrounds)
            pixel_values = swapped.tensor_split(args.world_size)[args.process_index]
        values, logits = self.method.per_image(model, pixel_values, inputs["mask"], targets)
        if labels is not None:
            values["top1"] = (logits.argmax(dim=1) == labels).float()
        return values, logits

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean loss of the batch. The running statistics of batch norms stay as they are: images with swapped backgrounds
        would change them, and so all predictions, without a gradient."""
        for module in model.modules():
            if hasattr(module, "running_var"):
                module.eval()
        values, logits = self._losses_per_image(model, inputs)
        self._check_finite(f"Step {self.state.global_step + 1}", "loss", values["loss"], inputs, self.train_dataset)
        if model.training:
            for name, value in values.items():
                self._train_values[name].append(value.detach().mean())
        loss = values["loss"].mean()
        if model.training and self._sizes_of_step:
            # The Trainer takes the mean over the batches of a step. This factor makes it the mean over the images.
            loss = loss * (len(values["loss"]) * len(self._sizes_of_step) / sum(self._sizes_of_step))
        return (loss, {"logits": logits}) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        step, batch = self._batch_of_step
        self._batch_of_step = (self.state.global_step, batch + 1 if step == self.state.global_step else 0)
        known = ImageModel(model)
        for parameter in self._body:
            parameter.requires_grad_(self.state.global_step >= self._head_steps)
        attention = nullcontext()
        if known.is_checkpointing:
            explicit = self.method.second_derivative
            if self._has_map and not explicit:
                rows, columns = known.patch_grid(inputs["pixel_values"])
                explicit = not has_linear_memory(VisionTransformer(model), rows * columns, self.args.second_order)
            if explicit:
                # Activation checkpointing computes attention again in the backward pass, which needs the same implementation.
                attention = switched_attention(known, EXPLICIT_ATTENTION)
        with attention:
            return super().training_step(model, inputs, num_items_in_batch)

    def _check_finite(self, when: str, name: str, values: torch.Tensor, inputs: dict, dataset: Dataset) -> None:
        bad = (~values.detach().reshape(len(values), -1).isfinite()).any(dim=1).nonzero()
        failed = torch.tensor(len(bad), device=self.args.device)
        if self.args.world_size > 1:
            torch.distributed.all_reduce(failed)
        if failed:
            images = name_images(inputs, bad.flatten().tolist(), dataset) if len(bad) else "images of another process"
            raise TrainingDiverged(
                f"{when}: the {name} of {images} is NaN or infinite. Look at these images. If there are many, lower the learning rate, or "
                "train in float32."
            )

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of all parameters: like the released code, decay biases and norms too."""
        return [name for name, _ in model.named_parameters()]

    def set_initial_training_values(self, args, dataloader):
        num_train_epochs, self._steps_per_epoch, *others = super().set_initial_training_values(args, dataloader)
        self._head_steps = round(args.head_epochs * self._steps_per_epoch)  # first steps, which train only the head
        # A stream never ends. The Trainer would start another epoch when a finished run is resumed.
        epochs = 1 if isinstance(self.train_dataset, MaskedStream) else num_train_epochs
        return (epochs, self._steps_per_epoch, *others)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """For `constant`, multiply the learning rate by `lr_decay_rate` every `lr_decay_every` epochs; others as in the Trainer."""
        args = self.args
        if self.lr_scheduler is None and args.lr_scheduler_type == "constant":
            steps_per_epoch, head_steps = self._steps_per_epoch, self._head_steps
            head_factor = args.rate_of_head / (args.learning_rate or 1.0)

            def factor(step: int) -> float:
                decay = args.lr_decay_rate ** (step // steps_per_epoch // args.lr_decay_every)
                return decay * head_factor if step < head_steps else decay

            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factor)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """Train as in [`~transformers.Trainer`]. A signal saves a checkpoint and then stops, see [`InterruptCallback`]."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
        if resume_from_checkpoint:
            self.check_checkpoint(resume_from_checkpoint)
        if self.args.save_strategy != SaveStrategy.NO:
            self._inputs  # noqa: B018  cached here, before the training changes the model that it describes
        if not self._original_top1 and self.args.logging_strategy != IntervalStrategy.NO:
            self._original_top1 = {mode: self._top1(dataset) for mode, dataset in self._measured_on.items()}
        with ExitStack() as stack:
            if self.is_world_process_zero():
                stack.enter_context(folder_lock(Path(self.args.output_dir), "train"))
            stack.callback(self._sizes_of_step.clear)
            stack.enter_context(self._interrupt)
            try:
                output = super().train(resume_from_checkpoint, *args, **kwargs)
            except callbacks.Interrupted:
                output = self.callback_handler.on_train_end(self.args, self.state, self.control)
            # Wait for the other processes, which still list the checkpoints: if nothing was written, freeing the lock deletes the folder.
            self._interrupt.agree(self.args)
            if number := self._interrupt.received:
                raise callbacks.TrainingInterrupted.after(
                    number, self.state.global_step, last_checkpoint(self.args.output_dir)
                )
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Loss, logits and labels of a batch. The Trainer's method needs labels, and gathers all outputs."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            values, logits = self._losses_per_image(model, inputs)
        self._check_finite("Validation", "loss", values["loss"], inputs, self.eval_dataset)
        for name, value in values.items():
            self._eval_values[name].append(self.accelerator.gather_for_metrics(value))
        loss = values["loss"].mean()
        return (loss, None, None) if prediction_loss_only else (loss, logits, inputs.get("labels"))

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        """The Trainer's loop, with the mean components of the loss in its metrics. It does not change the random state,
        since a signal may postpone it until the run is resumed."""
        self._eval_values.clear()
        try:
            with torch.random.fork_rng(devices=[]):  # the iterator of a data loader draws a random number on the CPU
                output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        except callbacks.Interrupted:
            step, folder = self.state.global_step, self.args.output_dir
            saved = step == 0 or last_checkpoint(folder) == f"{folder}/checkpoint-{step}"
            if not saved and self.args.save_strategy != SaveStrategy.NO:
                self._save_checkpoint(self.model, None)
            raise
        for name, values in self._eval_values.items():
            output.metrics[f"{metric_key_prefix}_{name}"] = torch.cat(values).mean().item()
        if dataloader.dataset is self.eval_dataset:
            if self._original_top1.get("eval") is not None:
                output.metrics[f"{metric_key_prefix}_original_top1"] = self._original_top1["eval"]
            self._validated[self.state.global_step] = output.metrics
        return output

    @property
    def validation(self) -> dict[str, float] | None:
        """Metrics of the saved model on `eval_dataset`, with the prefix `eval_`, if it was evaluated."""
        if self.args.load_best_model_at_end and self.state.best_global_step is not None:
            # The first evaluation of that step, since later ones may use other images.
            step = self.state.best_global_step
            return next((log for log in self.state.log_history if log["step"] == step and "eval_loss" in log), None)
        return self._validated.get(self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            for name, values in self._train_values.items():
                if name != "loss" and values:
                    logs[name] = self.accelerator.reduce(torch.stack(values).mean(), "mean").item()
            if self._original_top1.get("train") is not None:
                logs["original_top1"] = self._original_top1["train"]
            self._train_values.clear()
        super().log(logs, start_time)


def _seed_of_row(seed: int, epoch: torch.Tensor, row: int) -> tuple[int, int, int]:
    return seed, int(epoch), row


def _processor_of(model: PreTrainedModel) -> BaseImageProcessor:
    source = model.config._name_or_path
    if source and resolve_protocol(None, source) == "model":
        with suppress(OSError):
            return load_processor(source, "model", model)
    config = ImageModel(model).vision_config
    if why_no_map(model) or not hasattr(config, "image_size"):
        raise ValueError(f"`{type(model).__name__}` has no known image processor: give `processing_class`.")
    return make_image_processor("paper", config.image_size)
