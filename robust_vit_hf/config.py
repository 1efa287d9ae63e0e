"""Hyper-parameters of the finetuning."""

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from .files import public_settings


PAPER = "https://huggingface.co/papers/2206.01161"


@dataclass
class RobustViTConfig(TrainingArguments):
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

    # Parameters whose default values are overridden from TrainingArguments
    learning_rate: float = field(
        default=3e-6,
        metadata={"help": f"Initial learning rate of AdamW; 3e-6 is that of ViT-B ({PAPER}, Table 5)."},
    )
    weight_decay: float = field(default=1e-4, metadata={"help": "Weight decay, on all parameters."})
    num_train_epochs: float = field(default=50, metadata={"help": f"Number of epochs ({PAPER}, section 4)."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0 for none, as released."})
    lr_scheduler_type: str = field(
        default="constant",
        metadata={"help": "Scheduler. `constant` decays by `lr_decay_rate` every `lr_decay_every` epochs."},
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: `no`, `steps` or `epoch`."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: `no`, `steps`, `epoch` or `best`."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept beside the best one."})
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Load the checkpoint of the lowest total validation loss at the end."}
    )
    metric_for_best_model: str | None = field(default="loss", metadata={"help": "Metric of the best checkpoint."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two logs."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: image and mask are no arguments of the model."}
    )

    hub_strategy: str = field(default="end", metadata={"help": "Must stay `end`: one push, with the card."})

    # Losses
    relevance_weight: float = field(
        default=0.8, metadata={"help": f"Weight of the relevance loss ({PAPER}, Eq. 5). Recommended: 0.8."}
    )
    confidence_weight: float = field(
        default=0.2, metadata={"help": f"Weight of the confidence loss ({PAPER}, Eq. 5). Recommended: 0.2."}
    )
    background_weight: float = field(
        default=2.0, metadata={"help": f"Weight of the background loss ({PAPER}, Eq. 3). Recommended: 2."}
    )
    foreground_weight: float = field(
        default=0.3, metadata={"help": f"Weight of the foreground loss ({PAPER}, Eq. 3). Recommended: 0.3."}
    )
    relevance_distance: str = field(
        default="mse", metadata={"help": "Distance of relevance and mask.", "choices": ["mse", "bce"]}
    )
    mask_edges: str = field(
        default="fractional",
        metadata={
            "help": "Background at fractional mask values v: v as released, or the complement 1 - v.",
            "choices": ["fractional", "complement"],
        },
    )
    relevance_target: str = field(
        default="label", metadata={"help": "Class whose relevance is trained.", "choices": ["label", "prediction"]}
    )
    confidence_target: str = field(
        default="prediction",
        metadata={"help": "Class whose confidence is raised.", "choices": ["label", "prediction"]},
    )
    confidence_temperature: float = field(
        default=1.0, metadata={"help": "Temperature of the confidence loss: 0.65 for DeiT-B, 0.55 for DeiT-S, else 1."}
    )
    second_order: bool = field(
        default=False, metadata={"help": "Differentiate through the attention gradients as well."}
    )

    # Schedule
    lr_decay_rate: float = field(
        default=0.85, metadata={"help": "Factor of the learning rate every `lr_decay_every` epochs."}
    )
    lr_decay_every: int = field(default=2, metadata={"help": "Epochs between two decays of the learning rate."})

    # Data and logging
    bad_masks: str = field(
        default="skip",
        metadata={"help": "Images with an empty or full mask: leave out, or refuse.", "choices": ["skip", "refuse"]},
    )
    relevance_strip_steps: int = field(
        default=100, metadata={"help": "Steps between two relevance strips in TensorBoard; 0 for none."}
    )

    def __post_init__(self):
        super().__post_init__()
        for name, choices in {
            "relevance_distance": ("mse", "bce"),
            "mask_edges": ("fractional", "complement"),
            "relevance_target": ("label", "prediction"),
            "confidence_target": ("label", "prediction"),
            "bad_masks": ("skip", "refuse"),
        }.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"Expected `{name}` to be one of {choices}, but got `{getattr(self, name)}`.")
        for name in ("relevance_weight", "confidence_weight", "background_weight", "foreground_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"Expected `{name}` ≥ 0, but got {getattr(self, name)}.")
        for name in ("confidence_temperature", "lr_decay_rate", "lr_decay_every"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Expected `{name}` > 0, but got {getattr(self, name)}.")
        if self.remove_unused_columns:
            raise ValueError("`remove_unused_columns=True` would drop the images and masks. Leave it False.")
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
        """Of what is pickled as `training_args.bin`: all but the token, which the Hub is never given in a file."""
        return self.__dict__ | {"hub_token": None}

    def to_dict(self) -> dict:
        """What is logged: the Trainer's, which leaves out tokens, and of absolute paths the last component alone."""
        return public_settings(super().to_dict())

    @property
    def needs_labels(self) -> bool:
        """Whether a target is the label; otherwise images and masks are enough."""
        return "label" in (self.relevance_target if self.relevance_weight else None, self.confidence_target)
