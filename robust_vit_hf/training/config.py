"""Arguments of a finetuning: those of the Trainer and of the paper's loss. Other methods define their own."""

import os
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from accelerate import Accelerator
from torch import nn
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from ..utils.options import option
from ..utils.privacy import public_settings
from .methods import load_method


STEP_DECAY = "step_decay"  # the schedule of the released code, which transformers does not have


@dataclass
class RobustViTConfig(TrainingArguments):
    """Arguments of [`RobustViTTrainer`]: those of [`~transformers.TrainingArguments`], and those of the loss, Eq. 1–5
    of https://huggingface.co/papers/2206.01161. Each other `method` has a subclass with its defaults.

    Raises:
        ValueError: the settings would train something else than they say, see `_conflicts`.
    """

    # Defaults that differ from those of TrainingArguments. Unless a line says otherwise, they are the paper's.
    learning_rate: float = option(3e-6, "Initial learning rate of AdamW (Table 5: that of ViT-B).")
    weight_decay: float = option(1e-4, "Weight decay, also of biases and norms, as in the released code.")
    num_train_epochs: float = option(50, "Number of epochs (section 4).")
    max_grad_norm: float = option(0.0, "Gradient clipping. 0: none, as in the released code.")
    lr_scheduler_type: str = option(STEP_DECAY, "Schedule: the Trainer's, or `step_decay` by `lr_decay_rate`.")
    eval_strategy: str = option("epoch", "When to evaluate: `no`, `steps` or `epoch`.")
    save_strategy: str = option("epoch", "When to save: `no`, `steps`, `epoch` or `best`.")
    save_total_limit: int | None = option(2, "Checkpoints kept, the best among them. Ours, to save space.")
    load_best_model_at_end: bool = option(True, "Load the best checkpoint at the end: the lowest validation loss.")
    logging_steps: float = option(10, "Steps between two logs. Ours, since runs are short.")
    remove_unused_columns: bool = option(False, "Must stay False: `image` is not an argument of the model.")
    hub_strategy: str = option("end", "When to push. Ours, since other strategies upload the whole folder each time.")

    # The loss
    method: str = option("robustvit", "Method. Each has options and defaults of its own, see docs/train.md.")
    relevance_weight: float = option(0.8, "Weight of the relevance loss (Eq. 5); 0 for none.")
    confidence_weight: float = option(0.2, "Weight of the confidence loss (Eq. 5).")
    background_weight: float = option(2.0, "Weight of the background loss (Eq. 3 or Eq. 8).")
    foreground_weight: float = option(0.3, "Weight of the foreground loss (Eq. 3).")
    relevance_distance: Literal["mse", "bce"] = option("mse", "Distance of relevance map and mask (Eq. 1 and 2).")
    mask_edges: Literal["fractional", "complement"] = option("fractional", "Background at mask value v: v or 1 - v.")
    mean_over: Literal["image", "region"] = option("image", "Pixels over which losses of the map are averaged.")
    relevance_target: Literal["label", "prediction"] = option("label", "Class whose relevance is trained.")
    confidence_target: Literal["label", "prediction", "original"] = option("prediction", "Target of Eq. 4.")
    confidence_temperature: float = option(1.0, "Temperature of the confidence loss.")
    second_order: bool = option(False, "Differentiate relevance maps through the attention gradients too.")
    start_layer: int = option(0, "First layer of relevance propagation.")
    background_swap: float = option(0.0, "Probability that a training image gets the background of another.")
    backgrounds: str | None = option(None, "Folder of backgrounds: pictures without objects of the classes.")

    # Schedule and data
    lr_decay_rate: float = option(0.85, "Factor on the learning rate every `lr_decay_every` epochs, by `step_decay`.")
    lr_decay_every: int = option(2, "Epochs between two decays of the learning rate.")
    bad_masks: Literal["skip", "refuse"] = option("skip", "What to do with empty or full masks and bad stream rows.")

    unused: ClassVar[tuple[str, ...]] = ()  # fields of this class without effect on a method

    def __post_init__(self):
        if self.method != type(self).method:
            name = load_method(self.method).config.__name__
            raise ValueError(f"`{type(self).__name__}` is not the config of `{self.method}`: use `{name}`.")
        if self.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
            raise ValueError("DeepSpeed is not supported. Use DDP or FSDP2, see docs/train.md.")
        self.load_best_model_at_end = self.load_best_model_at_end and self.eval_strategy != "no"
        has_step_decay = self.lr_scheduler_type == STEP_DECAY
        if has_step_decay:
            self.lr_scheduler_type = SchedulerType.CONSTANT  # until TrainingArguments has checked it
        super().__post_init__()
        if has_step_decay:
            self.lr_scheduler_type = STEP_DECAY
        self._n_gpu = min(self.n_gpu, 1)  # nn.DataParallel would copy the model without its loss
        for message, applies in self._conflicts().items():
            if applies:
                raise ValueError(message)

    def _conflicts(self) -> dict[str, Any]:
        """Error messages for settings that would train something else, and whether each applies."""
        defaults = {own.name: own.default for own in fields(self)}
        given = [name for name in self.unused if getattr(self, name) != defaults[name]]
        swap, step_decay = self.background_swap, self.lr_scheduler_type == STEP_DECAY
        teaches = swap and self.confidence_weight > 0 and self.confidence_target == "prediction"
        alone = swap and self.backgrounds is None and self.train_batch_size * self.world_size == 1
        unused = self.backgrounds is not None and not swap
        return {
            f"`{'`, `'.join(given)}` has no effect on the method `{self.method}`: leave it out.": given,
            f"`background_swap` is {swap}: expected a probability from 0 to 1.": not 0 <= swap <= 1,
            "`background_swap` would teach the shortcut: set `confidence_target` to `original` or `label`.": teaches,
            "`background_swap` needs two images in each batch, or `backgrounds`.": alone,
            "`backgrounds` needs `background_swap` > 0, the probability that an image gets one.": unused,
            "`remove_unused_columns` must be False: it would remove the images.": self.remove_unused_columns,
            "`torch_compile` must be False: it gives no gradients of attentions.": self.torch_compile,
            "`ddp_static_graph` gives wrong gradients from the second step on.": self.ddp_static_graph,
            "`label_smoothing_factor` takes the labels from the loss.": self.label_smoothing_factor,
            "`step_decay` has no warm-up: choose another `lr_scheduler_type`.": step_decay and self.warmup_steps,
        }

    def __getstate__(self) -> dict:
        return self.__dict__ | {"hub_token": None}  # checkpoints hold a pickle of the arguments

    def to_dict(self) -> dict:
        return public_settings(super().to_dict())  # logs hold them, and are pushed

    @property
    def needs_labels(self) -> bool:
        """Whether a loss needs labels, and not only images and masks."""
        of_map = self.relevance_weight or ("relevance_weight" in self.unused and "relevance_target" not in self.unused)
        return "label" in (self.confidence_target, self.relevance_target if of_map else None)

    def describe(self) -> dict[str, str]:
        """Losses and schedule for the model card: text by name."""
        rate, schedule = f"{self.learning_rate:g}", f"× {self.lr_decay_rate:g} every {self.lr_decay_every} epochs"
        if self.lr_scheduler_type != STEP_DECAY:
            schedule = SchedulerType(self.lr_scheduler_type).value
        described = {"method": self.method, "learning rate": f"{rate}, {schedule}"}
        hidden = {*TrainingArguments.__dataclass_fields__, *self.unused, "backgrounds", "bad_masks"}
        for name in [own.name for own in fields(self) if own.name not in hidden and not own.name.startswith("lr_")]:
            if (value := getattr(self, name)) is not None and value is not False:
                described[name.replace("_", " ")] = f"{value:g}" if isinstance(value, float) else str(value)
        return described


def prepare_sharding(accelerator: Accelerator, model: nn.Module, second_derivative: bool) -> None:
    """Make FSDP2 shard a model by layers. Reject settings with which it would train or save something else."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    problems = {
        "FSDP1 is not supported: set `fsdp_version: 2`": plugin.fsdp_version != 2,
        "set `fsdp_state_dict_type: FULL_STATE_DICT`": plugin.state_dict_type.name != "FULL_STATE_DICT",
        "set `fsdp_cpu_ram_efficient_loading: false`": plugin.cpu_ram_efficient_loading,  # all measure the original
        "its activation checkpointing discards attentions: set that of the Trainer": plugin.activation_checkpointing,
        "a second derivative needs weights that it has freed (torch 2.13): use DDP": second_derivative,
        "adapters are not supported: use DDP": hasattr(model, "peft_config"),
    }
    for problem, applies in problems.items():
        if applies:
            raise ValueError(f"FSDP: {problem}. See docs/train.md.")
    if plugin.transformer_cls_names_to_wrap is None:
        # accelerate 1.15 would also shard the patch embeddings, which fails, as the embeddings around are sharded.
        layers = [name for name in model._no_split_modules or () if not name.endswith("Embeddings")]
        plugin.transformer_cls_names_to_wrap = layers
