"""Options of `robust-vit train` on the model and the data."""

from dataclasses import dataclass
from typing import Literal

from ..data.known_sets import BUNDLED_BENCHMARK, IMAGES_PER_SET
from ..models.model_names import BUNDLED_MODEL, MODELS
from ..utils.options import option


@dataclass
class ModelArguments:
    model: str = option(BUNDLED_MODEL, f"Name ({', '.join(MODELS)}), Hub id or folder of an image classifier.")
    protocol: Literal["paper", "native", "model"] | None = option(
        None,
        "Preprocessing: `paper` (0.5 statistics, 256 bilinear), `native` (the model's, 248 bicubic) or `model` (the "
        "saved one). Default: that of the model's training, or `paper` for registered models, else `model`.",
    )
    image_size: int | None = option(None, "Side of the images (default: that of the model).")
    trust_remote_code: bool = option(False, "Run model code that comes with the weights.")
    lora_rank: int | None = option(None, "Finetune and save only a LoRA adapter of this rank on linear layers.")
    merge_lora: bool = option(False, "Save the adapter of `lora_rank` merged into the weights.")

    def __post_init__(self):
        if self.merge_lora and self.lora_rank is None:
            raise ValueError("`merge_lora` merges an adapter: give its `lora_rank`, or leave `merge_lora` out.")


@dataclass
class DataArguments:
    dataset: str = option(BUNDLED_BENCHMARK, "Images with masks: Hub id, file or folder, or `emoji-shift`.")
    train_split: str = option("train", "Split to train on.")
    eval_split: str = option("validation", "Split to validate on.")
    hold_out: float | None = option(None, "Share of each class of `train` to hold out, if there is no `validation`.")
    test_split: str | None = option(None, "Split to measure before and after, instead of the validation images.")
    streaming: bool = option(False, "Read and check training images while training. Needs `--max_steps`.")
    samples_per_class: int = option(2, "Images of each training class, if the dataset is a benchmark.")
    class_seed: int = option(0, "Seed that draws the training classes, if the dataset is a benchmark.")
    num_classes: int | None = option(None, "Training classes of a benchmark; half of its classes by default.")
    images_per_set: int = option(IMAGES_PER_SET, "Images of each evaluation set of a benchmark.")
    benchmark_sets: bool = option(True, "Measure the sets of a benchmark before and after. With False, none is read.")
    control: bool = option(False, "For comparison, also finetune a copy on the same images with cross-entropy only.")
