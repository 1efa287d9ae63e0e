"""Options of finetuning: model, data and method."""

# This module does not import torch or the Trainer, so that the command line can reject invalid options before their slow import.

from dataclasses import dataclass
from typing import Any, Literal

from ..data.known_sets import BUNDLED_BENCHMARK, IMAGES_PER_SET
from ..models.image_processors import Protocol
from ..models.model_names import BUNDLED_MODEL, MODELS
from ..utils.options import COUNT, NOT_NEGATIVE, POSITIVE, SEED, SHARE, Options, option
from .methods import METHODS


@dataclass
class ModelArguments(Options):
    GROUP = "options of the model"

    model: str = option(BUNDLED_MODEL, f"Name ({', '.join(MODELS)}), Hub id or folder of an image classifier.")
    protocol: Protocol | None = option(
        None,
        "Preprocessing in training and evaluation: `paper` (0.5 statistics, 256 bilinear), `native` (the model's own "
        "statistics, 248 bicubic) or `model` (the image processor saved with the model, unchanged). By default, the protocol of the "
        "run that trained the model; if there is none, `paper` for registered models and `model` for all others.",
    )
    image_size: int | None = option(None, "Side of the images (default: that of the model).", COUNT)
    trust_remote_code: bool = option(False, "Run model code that comes with the weights.")
    lora_rank: int | None = option(None, "Finetune and save only a LoRA adapter of this rank on linear layers.", COUNT)
    merge_lora: bool = option(False, "Save the adapter of `lora_rank` merged into the weights.")

    def __post_init__(self):
        super().__post_init__()
        if self.merge_lora and self.lora_rank is None:
            raise ValueError("`merge_lora` merges an adapter: give its `lora_rank`, or leave `merge_lora` out.")


@dataclass
class DataArguments(Options):
    GROUP = "options of the data"

    dataset: str = option(
        BUNDLED_BENCHMARK,
        "Images with masks: Hub id, parquet file or folder, `save_to_disk` folder, image folder with a metadata.jsonl, "
        "output of `robust-vit masks` or `robust-vit data prepare`, or `emoji-shift`.",
    )
    train_split: str = option("train", "Split to train on; slices such as `train[:80%%]` work.")
    eval_split: str = option("validation", "Split to validate on.")
    test_split: str | None = option(None, "Split to measure before and after, instead of the validation images.")
    streaming: bool = option(False, "Read and check training images while training. Needs `--max_steps`.")
    samples_per_class: int = option(2, "Images of each training class, if the dataset is a benchmark.", COUNT)
    class_seed: int = option(0, "Seed that draws the training classes, if the dataset is a benchmark.", SEED)
    num_classes: int | None = option(None, "Training classes of a benchmark; half of its classes by default.", COUNT)
    images_per_set: int = option(IMAGES_PER_SET, "Images of each evaluation set of a benchmark.", COUNT)
    benchmark_sets: bool = option(True, "Measure the sets of a benchmark before and after. With False, none is read.")
    control: bool = option(False, "For comparison, also finetune a copy on the same images with cross-entropy only.")


@dataclass
class FinetuningArguments(Options):
    """Options of the method, and the paper's defaults for the Trainer's options."""

    GROUP = "options of the method"

    # Options of TrainingArguments with other defaults
    learning_rate: float = option(3e-6, "Initial learning rate of AdamW; that of the paper for ViT-B.", NOT_NEGATIVE)
    weight_decay: float = option(1e-4, "Weight decay, on all parameters.", NOT_NEGATIVE)
    num_train_epochs: float = option(50, "Number of epochs (section 4 of the paper).", POSITIVE)
    max_grad_norm: float = option(0.0, "Gradient clipping; 0: none, as in the released code.", NOT_NEGATIVE)
    lr_scheduler_type: str = option("constant", "`constant` decays by `lr_decay_rate` every `lr_decay_every` epochs.")
    eval_strategy: str = option("epoch", "When to evaluate: `no`, `steps` or `epoch`.")
    save_strategy: str = option("epoch", "When to save: `no`, `steps`, `epoch` or `best`.")
    save_total_limit: int | None = option(1, "Checkpoints kept in addition to the best one.", COUNT)
    load_best_model_at_end: bool = option(True, "Load the best checkpoint at the end: the lowest validation loss.")
    metric_for_best_model: str | None = option("loss", "Metric that chooses the best checkpoint.")
    logging_steps: float = option(10, "Steps between two logs.", POSITIVE)
    remove_unused_columns: bool = option(False, "Must stay False: image and mask are not arguments of the model.")
    hub_strategy: str = option("end", "Must stay `end`: one push, together with the card.")

    # Losses
    method: str = option(
        "robustvit",
        f"Method: {', '.join(METHODS)}. Each has options and defaults of its own: see docs/train.md.",
        choices=METHODS,
        metavar="NAME",
    )
    relevance_weight: float | None = option(None, "Weight of the relevance loss (Eq. 5); 0 for none.", NOT_NEGATIVE)
    confidence_weight: float | None = option(None, "Weight of the confidence loss (Eq. 5).", NOT_NEGATIVE)
    background_weight: float | None = option(None, "Weight of the background loss (Eq. 3 or Eq. 8).", NOT_NEGATIVE)
    foreground_weight: float | None = option(None, "Weight of the foreground loss of the map (Eq. 3).", NOT_NEGATIVE)
    relevance_distance: Literal["mse", "bce"] | None = option(None, "Distance of relevance and mask (Eq. 1 and 2).")
    mask_edges: Literal["fractional", "complement"] | None = option(None, "Background at a mask value v: v, or 1 - v.")
    mean_over: Literal["image", "region"] | None = option(None, "Pixels over which losses of the map are averaged.")
    relevance_target: Literal["label", "prediction"] | None = option(None, "Class whose relevance is trained.")
    confidence_target: Literal["label", "prediction", "original"] | None = option(
        None,
        "Target of the confidence loss: a class (Eq. 4), or for `original` the output of the model before finetuning.",
    )
    confidence_temperature: float = option(1.0, "Temperature of the confidence loss.", POSITIVE)
    second_order: bool = option(False, "Differentiate relevance maps through the attention gradients too.")
    start_layer: int | None = option(None, "First layer of relevance propagation; 0 by default.", NOT_NEGATIVE)
    released_gradients: bool = option(False, "Background loss of `gradmask` and `rrr` as released: it trains nothing.")

    # Schedule
    lr_decay_rate: float = option(0.85, "Factor on the learning rate every `lr_decay_every` epochs.", POSITIVE)
    lr_decay_every: int = option(2, "Epochs between two decays of the learning rate.", COUNT)
    head_epochs: float = option(0.0, "Number of first epochs that train only the head.", NOT_NEGATIVE)
    head_learning_rate: float | None = option(None, "Rate of `head_epochs`; by default `learning_rate`.", NOT_NEGATIVE)

    # Data and logging
    background_swap: float | None = option(
        None, "Probability that a training image gets the background of another image of its batch.", SHARE
    )
    backgrounds: str | None = option(None, "Folder of backgrounds: pictures without objects of the classes.")
    bad_masks: Literal["skip", "refuse"] = option("skip", "What to do with empty or full masks and bad stream rows.")


# Options that only some methods have. The value stands for the default of the method.
METHOD_OPTIONS: dict[str, Any] = {
    name: getattr(FinetuningArguments, name)
    for name in (
        *("relevance_weight", "confidence_weight", "background_weight", "foreground_weight"),
        *("relevance_distance", "mask_edges", "mean_over", "relevance_target", "confidence_target"),
        *("second_order", "start_layer", "released_gradients"),
    )
}
# Options of a recipe, in addition to `METHOD_OPTIONS`, that suit only its method.
BESIDE_THE_METHOD = ("background_swap", "backgrounds", "head_epochs", "head_learning_rate")
