"""Options of a finetuning: of the model, of the data, and of the method.

They are plain dataclasses, so that the command line refuses a wrong one before the seconds that importing torch and the
Trainer takes. Fields of [`FinetuningArguments`] are documented with [`RobustViTConfig`], which inherits them.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from ..models.presets import Preset
from ..models.registry import MODELS


PAPER = "https://huggingface.co/papers/2206.01161"

Distance = Literal["mse", "bce"]
MaskEdges = Literal["fractional", "complement"]
Target = Literal["label", "prediction"]
BadMasks = Literal["skip", "refuse"]


@dataclass
class ModelArguments:
    """Options of the model."""

    _argument_group_name = "options of the model"

    model: str = field(
        default="emoji-shift",
        metadata={
            "help": f"Name ({', '.join(MODELS)}), Hub id (also of timm) or folder of an image classification model."
        },
    )
    preset: Preset = field(
        default="paper",
        metadata={
            "help": "Preprocessing in training and evaluation: `paper` (0.5 statistics, 256 bilinear) or `native` (the "
            "model's own statistics, 248 bicubic)."
        },
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the images in pixels; what the model was made for by default."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that comes with the weights."})
    lora_rank: int | None = field(
        default=None,
        metadata={"help": "Finetune a LoRA adapter of this rank over all linear layers, and save it alone."},
    )
    merge_lora: bool = field(default=False, metadata={"help": "Save the adapter merged into the weights."})

    def __post_init__(self):
        if self.merge_lora and self.lora_rank is None:
            raise ValueError("`merge_lora` merges the adapter of `lora_rank`, which is not given.")


@dataclass
class DataArguments:
    """Options of the data."""

    _argument_group_name = "options of the data"

    dataset: str = field(
        default="emoji-shift",
        metadata={
            "help": "Images with masks: Hub id, parquet file or folder, `save_to_disk` folder, image folder with a "
            "metadata.jsonl, what `robust-vit masks` and `robust-vit data prepare` write, or `emoji-shift`."
        },
    )
    train_split: str = field(
        default="train", metadata={"help": "Split to train on; slices such as `train[:80%%]` work."}
    )
    eval_split: str = field(default="validation", metadata={"help": "Split to validate on."})
    samples_per_class: int = field(
        default=5, metadata={"help": "Of a benchmark: training images of each class that is shown."}
    )
    images_per_set: int = field(default=200, metadata={"help": "Of a benchmark: images of each evaluation set."})
    control: bool = field(
        default=False,
        metadata={"help": "Finetune a second copy with cross-entropy alone on the same images, for comparison."},
    )


@dataclass
class FinetuningArguments:
    """Options of the method, and defaults of the Trainer that are those of the paper."""

    _argument_group_name = "options of the method"

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
    relevance_distance: Distance = field(default="mse", metadata={"help": "Distance of relevance and mask."})
    mask_edges: MaskEdges = field(
        default="fractional",
        metadata={"help": "Background at fractional mask values v: v as released, or the complement 1 - v."},
    )
    relevance_target: Target = field(default="label", metadata={"help": "Class whose relevance is trained."})
    confidence_target: Target = field(default="prediction", metadata={"help": "Class whose confidence is raised."})
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
    bad_masks: BadMasks = field(
        default="skip", metadata={"help": "Images with an empty or full mask: leave out, or refuse."}
    )
    relevance_strip_steps: int = field(
        default=100, metadata={"help": "Steps between two relevance strips in TensorBoard; 0 for none."}
    )

    def __post_init__(self):
        for name, choices in {
            "relevance_distance": Distance,
            "mask_edges": MaskEdges,
            "relevance_target": Target,
            "confidence_target": Target,
            "bad_masks": BadMasks,
        }.items():
            if getattr(self, name) not in get_args(choices):
                raise ValueError(
                    f"Expected `{name}` to be one of {get_args(choices)}, but got `{getattr(self, name)}`."
                )
        for name in ("relevance_weight", "confidence_weight", "background_weight", "foreground_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"Expected `{name}` ≥ 0, but got {getattr(self, name)}.")
        for name in ("confidence_temperature", "lr_decay_rate", "lr_decay_every"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Expected `{name}` > 0, but got {getattr(self, name)}.")
        if self.remove_unused_columns:
            raise ValueError("`remove_unused_columns=True` would drop the images and masks. Leave it False.")
