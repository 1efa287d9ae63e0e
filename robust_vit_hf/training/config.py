"""Hyper-parameters of the finetuning."""

from dataclasses import dataclass, replace
from typing import Self

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..utils.publishable import public_settings
from .arguments import FinetuningArguments


@dataclass
class RobustViTConfig(FinetuningArguments, TrainingArguments):
    """Arguments of [`RobustViTTrainer`]: those of [`~transformers.TrainingArguments`], and the following.

    > Parameters of the losses

    Args:
        relevance_weight (`float`, *optional*, defaults to `0.8`):
            Weight of the relevance loss (Eq. 5). At 0 no relevance map is computed.
        confidence_weight (`float`, *optional*, defaults to `0.2`):
            Weight of the confidence loss (Eq. 5).
        background_weight (`float`, *optional*, defaults to `2.0`):
            Weight of the background loss within the relevance loss (Eq. 3).
        foreground_weight (`float`, *optional*, defaults to `0.3`):
            Weight of the foreground loss within the relevance loss (Eq. 3).
        relevance_distance (`str`, *optional*, defaults to `"mse"`):
            `"mse"` (Eq. 1 and 2) or `"bce"`.
        mask_edges (`str`, *optional*, defaults to `"fractional"`):
            `"fractional"` or `"complement"`, see [`RelevanceLoss`].
        relevance_target (`str`, *optional*, defaults to `"label"`):
            Class whose relevance is trained: `"label"` or `"prediction"`.
        confidence_target (`str`, *optional*, defaults to `"prediction"`):
            Class whose confidence is raised: `"prediction"` (Eq. 4), or `"label"`, the ablation with ordinary
            cross-entropy. With both targets at `"prediction"` no labels are needed.
        confidence_temperature (`float`, *optional*, defaults to `1.0`):
            Temperature of the confidence loss. The released code takes 0.65 for DeiT-B and 0.55 for DeiT-S.
        second_order (`bool`, *optional*, defaults to `False`):
            Differentiate through the attention gradients as well. The released code takes them as constants.

    > Parameters of the schedule

    Args:
        lr_decay_rate (`float`, *optional*, defaults to `0.85`):
            Factor of the learning rate every `lr_decay_every` epochs, with `lr_scheduler_type="constant"`.
        lr_decay_every (`int`, *optional*, defaults to `2`):
            Epochs between two decays.

    > Parameters of data and logging

    Args:
        bad_masks (`str`, *optional*, defaults to `"skip"`):
            What to do with images whose mask is empty or full: `"skip"` leaves them out and says how many,
            `"refuse"` raises an error.
        relevance_strip_steps (`int`, *optional*, defaults to `100`):
            Steps between two strips image | mask | relevance before | relevance after in TensorBoard. 0 for none.

    These defaults differ from [`~transformers.TrainingArguments`]: `learning_rate` 3e-6, `weight_decay` 1e-4 (on all
    parameters), `num_train_epochs` 50, `max_grad_norm` 0 (no clipping), `lr_scheduler_type` constant, evaluation and
    checkpoint every epoch with the best checkpoint by `eval_loss` loaded at the end, `save_total_limit` 1,
    `logging_steps` 10, `remove_unused_columns` False, `hub_strategy` end (one push, with the card).
    """

    def __post_init__(self):
        TrainingArguments.__post_init__(self)
        FinetuningArguments.__post_init__(self)
        if self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise ValueError(
                f"`hub_strategy` {self.hub_strategy.value} uploads checkpoints without a card and with files that hold paths of "
                "this machine. Leave it `end`."
            )
        if self.torch_compile:
            raise ValueError(
                "`torch_compile=True` makes attentions and logits sibling outputs of one compiled function, so that the "
                "gradient of one in the other does not exist. Leave it False."
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
        """What is pickled as `training_args.bin`: everything but the token."""
        return self.__dict__ | {"hub_token": None}

    def to_dict(self) -> dict:
        """What is logged: the Trainer's, without tokens, and of absolute paths the last component alone."""
        return public_settings(super().to_dict())

    @property
    def needs_labels(self) -> bool:
        """Whether a target is the label; otherwise images and masks are enough."""
        return "label" in (self.relevance_target if self.relevance_weight else None, self.confidence_target)

    def control(self) -> Self:
        """Config of the control: cross-entropy with the label alone, which evaluates, saves and pushes nothing."""
        return replace(
            self,
            relevance_weight=0.0,
            confidence_weight=1.0,
            confidence_target="label",
            confidence_temperature=1.0,
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
        }
