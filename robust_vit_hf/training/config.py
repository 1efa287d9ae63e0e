"""Hyper-parameters of the finetuning."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self, get_type_hints

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..utils.options import check_options
from ..utils.publishable import public_settings
from .arguments import RANGES, FinetuningArguments


@dataclass
class RobustViTConfig(FinetuningArguments, TrainingArguments):
    """Arguments of [`RobustViTTrainer`]: those of [`~transformers.TrainingArguments`], and the following ones, some of which
    change a default of the Trainer to that of the paper.

    Args:
    """

    def __post_init__(self):
        # `debug` is None where `HfArgumentParser` parsed it.
        check_options(self, get_type_hints(RobustViTConfig) | {"debug": Any}, RANGES)
        TrainingArguments.__post_init__(self)
        FinetuningArguments.__post_init__(self)
        if self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise ValueError(
                f"`hub_strategy` {self.hub_strategy.value} uploads checkpoints without a card, and files with paths of this "
                "machine. Leave it `end`."
            )
        if self.torch_compile:
            raise ValueError(
                "`torch_compile=True` makes attentions and logits sibling outputs of one compiled function, so that the "
                "gradient of one in the other does not exist. Leave it False."
            )
        if self.max_steps == 0:
            raise ValueError("Expected `max_steps` ≥ 1, or -1 for all steps of `num_train_epochs`, but got 0.")
        if self.warmup_steps and self.lr_scheduler_type == "constant":
            raise ValueError(
                "The scheduler `constant`, which decays by `lr_decay_rate`, has no warm-up: leave `warmup_steps` out, or name "
                "another `lr_scheduler_type`, such as `constant_with_warmup`."
            )
        if self.device.type == "cpu":  # the default would warn that there is nothing to pin for
            self.dataloader_pin_memory = False
        if self.on_nan == "skip" and self.fp16:
            raise ValueError(
                "`on_nan='skip'` is not supported with `fp16`, whose loss scale needs a gradient: use `bf16`."
            )
        if self.deepspeed or self.fsdp:
            raise ValueError("DeepSpeed and FSDP are not supported: use DDP (`accelerate launch --multi_gpu`).")
        if self.activation_checkpointing:
            self.activation_checkpointing_kwargs = dict(self.activation_checkpointing_kwargs or {})
            if self.activation_checkpointing_kwargs.setdefault("use_reentrant", False):
                raise ValueError(
                    "Reentrant activation checkpointing computes attentions without a graph. "
                    'Set `activation_checkpointing_kwargs={"use_reentrant": False}`.'
                )

    def __getstate__(self) -> dict:
        """State for `training_args.bin`, without the token."""
        return self.__dict__ | {"hub_token": None}

    def to_dict(self) -> dict:
        """Values for logs: those of the Trainer, with the last component alone of absolute paths."""
        return public_settings(super().to_dict())

    @property
    def needs_labels(self) -> bool:
        """Whether a target is the label; otherwise images and masks suffice."""
        return "label" in (self.relevance_target if self.relevance_weight else None, self.confidence_target)

    def control(self) -> Self:
        """Config of the control: cross-entropy with the label alone, without evaluation, checkpoints and push."""
        return replace(
            self,
            relevance_weight=0.0,
            confidence_weight=1.0,
            confidence_target="label",
            confidence_temperature=1.0,
            background_swap=0.0,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            report_to="none",
            push_to_hub=False,
        )

    def describe(self) -> dict[str, str]:
        """Losses and schedule by name, in words, for the model card."""
        schedule = self.lr_scheduler_type.value
        if schedule == "constant":
            schedule = f"× {self.lr_decay_rate:g} every {self.lr_decay_every} epochs"
        return {
            "learning rate": f"{self.learning_rate:g}, {schedule}",
            "weights: relevance, confidence": f"{self.relevance_weight:g}, {self.confidence_weight:g}",
            "weights: background, foreground": f"{self.background_weight:g}, {self.foreground_weight:g}",
            "distance of relevance and mask": self.relevance_distance
            + (", second order" if self.second_order else ""),
            "classes: of the relevance, of the confidence": f"{self.relevance_target}, {self.confidence_target}",
            "temperature of the confidence": f"{self.confidence_temperature:g}",
            "probability of a background swap": f"{self.background_swap:g}",
        }


# The help of an option on the command line documents it here too.
RobustViTConfig.__doc__ = RobustViTConfig.__doc__.rstrip() + "".join(
    f"\n        {option.name} (*optional*, defaults to `{option.default!r}`): {option.metadata['help']}"
    for option in fields(FinetuningArguments)
)
