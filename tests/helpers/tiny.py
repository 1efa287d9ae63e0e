"""Small models and data. Everything is made on the spot."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from robust_vit_hf import RobustViTConfig, make_image_processor
from robust_vit_hf.training.methods import load_method


ROOT = Path(__file__).parents[2]
# Name of the option since transformers 5.23.
CHECKPOINTING = (
    f"{'activation' if hasattr(TrainingArguments, 'activation_checkpointing') else 'gradient'}_checkpointing"
)
DATA = Path(__file__).parents[1] / "golden"
IMAGE_SIZE = 32
WIDE = (52, 40)  # width and height
PRETRAINING = ViTImageProcessor(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
    "num_labels": 4,
    "initializer_range": 0.3,
}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LABELS = (2, 0, 1, 3, 0, 2, 0, 1)  # of rows in turn: other numbers of each class, in no order
TENCH, GOLDFISH, STINGRAY, TOILET_TISSUE = "n01440764", "n01443537", "n01498041", "n15075141"


def named(names: Sequence[str]) -> dict[str, dict]:
    """Names of classes as settings of a configuration."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


LETTERS = named("abcd")


def tiny_vit(seed: int = 0, **overrides) -> ViTForImageClassification:
    """ViT with 2 layers for 32×32 images, patch 8, 4 classes. Weights are large enough for maps that are not flat; `**STILL` leaves
    its dropout out, where a training is compared with another computation."""
    torch.manual_seed(seed)
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    return ViTForImageClassification(ViTConfig(**SIZES | dropout | overrides)).eval()


def word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """Tokenizer of the words, among which `<unk>`, `<start>` and `<end>` are."""
    known = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>"}
    return PreTrainedTokenizerFast(tokenizer_object=known, **special)


def images(count: int = 2, height: int = IMAGE_SIZE, width: int = IMAGE_SIZE, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def masked_rows(count: int, seed: int = 0, size: tuple[int, int] = WIDE) -> list[dict]:
    """Rows of noise images of a width and height, with a rectangle as the foreground, and [`LABELS`]."""
    rng, (width, height) = np.random.default_rng(seed), size
    rows = []
    for index in range(count):
        mask = np.zeros((height, width), dtype=np.uint8)
        top, left = (rng.integers(2, side // 2) for side in (height, width))
        mask[top : top + height // 3, left : left + width // 3] = 255
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        label = LABELS[index % len(LABELS)]
        rows.append({"image": Image.fromarray(image), "mask": Image.fromarray(mask), "label": label})
    return rows


FEATURES = datasets.Features(
    {"image": datasets.Image(), "mask": datasets.Image(), "label": datasets.ClassLabel(names=list("abcd"))}
)


def masked_dataset(count: int, seed: int = 0) -> datasets.Dataset:
    return datasets.Dataset.from_list(masked_rows(count, seed), features=FEATURES)


def tensor_rows(count: int, seed: int = 0) -> list[dict]:
    """Rows that are ready for the model, so that no random crop is drawn."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "pixel_values": torch.randn(3, IMAGE_SIZE, IMAGE_SIZE, generator=generator),
            "mask": torch.nn.functional.interpolate(
                torch.randint(0, 2, (1, 1, 4, 4), generator=generator).float(), IMAGE_SIZE
            )[0],
            "labels": LABELS[index % len(LABELS)],
        }
        for index in range(count)
    ]


def tiny_config(output_dir, **overrides) -> RobustViTConfig:
    """Config of a fast run that evaluates and saves nothing."""
    settings = {
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
    } | overrides
    return load_method(settings.get("method", "robustvit")).config(str(output_dir), **settings)


# Ablations of the paper's method, as options that override those of `robustvit`: Tables 4 and 12 of
# https://huggingface.co/papers/2206.01161 to `ground-truth`. `start-layer` is half of the 12 layers of a base or small model.
ABLATIONS: dict[str, dict] = {
    "without-confidence": {"confidence_weight": 0.0},
    "without-background": {"background_weight": 0.0},
    "without-foreground": {"foreground_weight": 0.0},
    "ground-truth": {"confidence_target": "label"},
    "second-order": {"second_order": True},
    "bce": {"relevance_distance": "bce"},
    "label-free": {"relevance_target": "prediction"},
    "start-layer": {"start_layer": 6},
}


def save_pretrained(model, folder: Path, protocol: str = "native") -> Path:
    """Write a model with an image processor, as a finetuning does."""
    model.save_pretrained(folder)
    make_image_processor(protocol, IMAGE_SIZE, PRETRAINING).save_pretrained(folder)
    return folder


def masked_folder(folder: Path, train: int = 16, validation: int = 8) -> Path:
    """Parquet folder with two splits."""
    folder.mkdir(parents=True, exist_ok=True)
    masked_dataset(train).to_parquet(folder / "train-00000.parquet")
    masked_dataset(validation, seed=1).to_parquet(folder / "validation-00000.parquet")
    return folder
