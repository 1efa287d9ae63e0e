"""Small models and data sets that the tests share. Everything is offline and made on the spot."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

from robust_vit_hf import RobustViTConfig, make_image_processor


IMAGE_SIZE = 32


def tiny_vit(seed: int = 0, **overrides) -> ViTForImageClassification:
    """ViT with 2 layers for 32×32 images, patch 8, 4 classes. Weights are large enough for maps that are not flat."""
    torch.manual_seed(seed)
    settings = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 48,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
        "num_labels": 4,
        "initializer_range": 0.3,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    } | overrides
    return ViTForImageClassification(ViTConfig(**settings)).eval()


def masked_rows(count: int, seed: int = 0, size: int = 40) -> list[dict]:
    """Rows of noise images with a rectangle as the foreground, and labels in turn."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        mask = np.zeros((size, size), dtype=np.uint8)
        top, left = rng.integers(2, size // 2, 2)
        mask[top : top + size // 3, left : left + size // 3] = 255
        image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        rows.append({"image": Image.fromarray(image), "mask": Image.fromarray(mask), "label": index % 4})
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
            "labels": index % 4,
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
    return RobustViTConfig(str(output_dir), **settings)


@pytest.fixture
def processor():
    return make_image_processor("paper", IMAGE_SIZE)
