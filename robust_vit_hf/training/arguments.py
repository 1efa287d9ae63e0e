"""Options of a finetuning: of the model, of the data, and of the method.

They are plain dataclasses, so that the command line refuses wrong options before it imports torch and the Trainer, which takes
seconds.
"""

from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..data.benchmarks import BUNDLED_BENCHMARK, IMAGES_PER_SET
from ..models.preprocessing import Preset
from ..models.registry import BUNDLED_MODEL, MODELS
from ..utils.options import Range, check_options
from .methods import method_names


PAPER = "https://huggingface.co/papers/2206.01161"


# Numbers of the options of this package and of the Trainer. All others must be finite.
_COUNT, _POSITIVE, _NOT_NEGATIVE, _SHARE, _SEED = (
    Range(1),
    Range(0, above=True),
    Range(0),
    Range(0, 1),
    Range(0, 2**32 - 1),
)
RANGES = {
    **dict.fromkeys(("image_size", "lora_rank", "samples_per_class", "images_per_set", "lr_decay_every"), _COUNT),
    **dict.fromkeys(
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), _COUNT
    ),
    **dict.fromkeys(("eval_accumulation_steps", "save_total_limit", "dataloader_prefetch_factor"), _COUNT),
    **dict.fromkeys(("torch_empty_cache_steps", "ddp_timeout", "ddp_bucket_cap_mb"), _COUNT),
    **dict.fromkeys(("num_train_epochs", "logging_steps", "eval_steps", "save_steps", "adam_epsilon"), _POSITIVE),
    **dict.fromkeys(("confidence_temperature", "lr_decay_rate"), _POSITIVE),
    **dict.fromkeys(
        ("relevance_weight", "confidence_weight", "background_weight", "foreground_weight"), _NOT_NEGATIVE
    ),
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "eval_delay"), _NOT_NEGATIVE),
    **dict.fromkeys(
        ("dataloader_num_workers", "relevance_strip_steps", "neftune_noise_alpha", "start_layer"), _NOT_NEGATIVE
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), _SHARE),
    **dict.fromkeys(("seed", "data_seed", "class_seed"), _SEED),
    "background_swap": Range(0, 1),
    "max_steps": Range(-1),  # -1 for none
}


# Options that not all methods have, with the value that stands for the default of the method.
METHOD_OPTIONS: dict[str, Any] = {
    "relevance_weight": None,
    "confidence_weight": None,
    "background_weight": None,
    "foreground_weight": None,
    "relevance_distance": None,
    "mask_edges": None,
    "mean_over": None,
    "relevance_target": None,
    "confidence_target": None,
    "second_order": False,
    "start_layer": None,
    "released_gradients": False,
}


def option(default: Any, text: str) -> Any:
    """Field with a default and a help text."""
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Options of the model."""

    _argument_group_name = "options of the model"

    model: str = option(
        BUNDLED_MODEL, f"Name ({', '.join(MODELS)}), Hub id (also of timm) or folder of an image classification model."
    )
    preset: Preset = option(
        "paper",
        "Preprocessing in training and evaluation: `paper` (0.5 statistics, 256 bilinear) or `native` (the model's own "
        "statistics, 248 bicubic).",
    )
    image_size: int | None = option(None, "Side of the images in pixels; by default that of the model.")
    trust_remote_code: bool = option(False, "Run model code that comes with the weights.")
    lora_rank: int | None = option(
        None, "Finetune a LoRA adapter of this rank over all linear layers, and save it alone."
    )
    merge_lora: bool = option(False, "Save the adapter merged into the weights.")

    def __post_init__(self):
        check_options(self, get_type_hints(ModelArguments), RANGES)
        if self.merge_lora and self.lora_rank is None:
            raise ValueError("`merge_lora` merges the adapter of `lora_rank`, which is not given.")


@dataclass
class DataArguments:
    """Options of the data."""

    _argument_group_name = "options of the data"

    dataset: str = option(
        BUNDLED_BENCHMARK,
        "Images with masks: Hub id, parquet file or folder, `save_to_disk` folder, image folder with a metadata.jsonl, "
        "output of `robust-vit masks` or `robust-vit data prepare`, or `emoji-shift`.",
    )
    train_split: str = option("train", "Split to train on; slices such as `train[:80%%]` work.")
    eval_split: str = option("validation", "Split to validate on.")
    streaming: bool = option(
        False,
        "Read the images to train on while training, without a copy and a check of all of them first. Needs `--max_steps`.",
    )
    samples_per_class: int = option(2, "Images of each training class, if the dataset is a benchmark.")
    class_seed: int = option(0, "Seed that draws the training classes, if the dataset is a benchmark.")
    images_per_set: int = option(IMAGES_PER_SET, "Images of each evaluation set of a benchmark.")
    control: bool = option(
        False, "Finetune a second copy with cross-entropy alone on the same images, for comparison."
    )

    def __post_init__(self):
        check_options(self, get_type_hints(DataArguments), RANGES)


@dataclass
class FinetuningArguments:
    """Options of the method, and defaults of the Trainer that are those of the paper."""

    _argument_group_name = "options of the method"

    # Parameters whose default values are overridden from TrainingArguments
    learning_rate: float = option(3e-6, f"Initial learning rate of AdamW; 3e-6 is that of ViT-B ({PAPER}, Table 5).")
    weight_decay: float = option(1e-4, "Weight decay, on all parameters.")
    num_train_epochs: float = option(50, f"Number of epochs ({PAPER}, section 4).")
    max_grad_norm: float = option(0.0, "Gradient clipping; 0 for none, as released.")
    lr_scheduler_type: str = option(
        "constant", "Scheduler. `constant` decays by `lr_decay_rate` every `lr_decay_every` epochs."
    )
    eval_strategy: str = option("epoch", "When to evaluate: `no`, `steps` or `epoch`.")
    save_strategy: str = option("epoch", "When to save: `no`, `steps`, `epoch` or `best`.")
    save_total_limit: int | None = option(1, "Checkpoints kept beside the best one.")
    load_best_model_at_end: bool = option(True, "Load the checkpoint of the lowest total validation loss at the end.")
    metric_for_best_model: str | None = option("loss", "Metric of the best checkpoint.")
    logging_steps: float = option(10, "Steps between two logs.")
    remove_unused_columns: bool = option(False, "Must stay False: image and mask are not arguments of the model.")
    hub_strategy: str = option("end", "Must stay `end`: one push, with the card.")

    # Losses
    method: str = option(
        "robustvit",
        f"Method of finetuning: {', '.join(method_names())}. Each has options of its own among the following, with its own "
        "defaults: see docs/methods.md.",
    )
    relevance_weight: float | None = option(
        None,
        f"Weight of the loss on the relevance map; 0.8 by default ({PAPER}, Eq. 5). Of `robustvit`, `cft` and `energy`. At 0 "
        "`robustvit` computes no map.",
    )
    confidence_weight: float | None = option(
        None,
        f"Weight of the confidence loss, in all methods; by default 0.2 ({PAPER}, Eq. 5), in `finetune` 1, in `gradmask` 3e-9 and "
        "in `rrr` 2e-6 (Tables 7 and 6).",
    )
    background_weight: float | None = option(
        None,
        f"Weight of the background loss: within the relevance loss of `robustvit` (2 by default, {PAPER}, Eq. 3) and `cft` (1.2), "
        "or of the input gradients of `gradmask` (50, Table 7) and `rrr` (1e-10, Table 6).",
    )
    foreground_weight: float | None = option(
        None,
        f"Weight of the foreground loss within the relevance loss of `robustvit` (0.3 by default, {PAPER}, Eq. 3) and `cft` (0.5).",
    )
    relevance_distance: Literal["mse", "bce"] | None = option(
        None,
        "Distance of relevance and mask: `mse` (Eq. 1 and 2), the default of `robustvit`, or `bce`, that of `cft`.",
    )
    mask_edges: Literal["fractional", "complement"] | None = option(
        None,
        "Background at fractional mask values v: v as released (`fractional`), the default, or 1 - v (`complement`), that of "
        "`cft`. Of all methods with a background loss.",
    )
    mean_over: Literal["image", "region"] | None = option(
        None,
        "Pixels over which the relevance losses are averaged: all (`image`), the default of `robustvit` and what the code of "
        "`cft` does, or those of the background and of the foreground each (`region`), the default of `cft`, as in its paper.",
    )
    relevance_target: Literal["label", "prediction"] | None = option(
        None,
        "Class whose relevance, or whose input gradient in `gradmask`, is trained: `label`, the default, or `prediction`.",
    )
    confidence_target: Literal["label", "prediction", "original"] | None = option(
        None,
        "Class whose confidence is raised: `prediction` (Eq. 4), the default of `robustvit` and `cft`, or `label`, the ordinary "
        "cross-entropy of all others. With `original`, the loss is the Kullback-Leibler divergence from the output of the model "
        "before finetuning, on the image without background swap. Only `label` needs labels.",
    )
    confidence_temperature: float = option(
        1.0, "Temperature of the confidence loss. The released code takes 0.65 for DeiT-B, 0.55 for DeiT-S."
    )
    second_order: bool = option(
        False,
        "Differentiate relevance maps through the attention gradients as well. The released code takes them as constants.",
    )
    start_layer: int | None = option(
        None, "First layer of the propagation of relevance maps, counted from 0, which is the default."
    )
    released_gradients: bool = option(
        False,
        "Background loss of `gradmask` and `rrr` as in the released code, in which the input gradient is a constant and the "
        "background loss changes no weight.",
    )

    # Schedule
    lr_decay_rate: float = option(
        0.85, "Factor of the learning rate every `lr_decay_every` epochs, with the scheduler `constant`."
    )
    lr_decay_every: int = option(2, "Epochs between two decays of the learning rate.")

    # Data and logging
    background_swap: float = option(
        0.0,
        "Probability of an image in training to have, through its mask, the background of another image of the batch. "
        "0 for none; 0.5 where it is used.",
    )
    bad_masks: Literal["skip", "refuse"] = option(
        "skip",
        "Images with an empty or full mask, and rows of a stream whose image or mask cannot be used: `skip` leaves them out with a "
        "warning, `refuse` raises an error.",
    )
    on_nan: Literal["stop", "skip"] = option(
        "stop",
        "A batch whose loss is NaN or infinite: `stop` ends the training and names the images, `skip` leaves the batch out, "
        "with a warning, and counts it.",
    )
    relevance_strip_steps: int = option(
        100, "Steps between two strips image | mask | relevance before | relevance after in TensorBoard; 0 for none."
    )

    def __post_init__(self):
        check_options(self, get_type_hints(FinetuningArguments), RANGES)
        for declared in fields(FinetuningArguments):
            value, kinds = getattr(self, declared.name), (declared.type, *get_args(declared.type))
            choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), None)
            if choices and value is not None and value not in choices:
                raise ValueError(f"Expected `{declared.name}` to be one of {choices}, but got `{value}`.")
        if self.method not in method_names():
            close = get_close_matches(self.method, method_names(), n=1)
            raise ValueError(
                f"Unknown method `{self.method}`; "
                + (f"did you mean `{close[0]}`?" if close else f"expected one of {', '.join(method_names())}.")
            )
        if self.remove_unused_columns:
            raise ValueError("`remove_unused_columns=True` would drop the images and masks. Leave it False.")
