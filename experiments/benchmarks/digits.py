"""Images for which nothing in this package was tuned: handwritten digits of scikit-learn, as strokes of a random
colour, on textures.

Each digit has a usual texture in 97 % of the images. A DINOv2-S/14 is finetuned on them with cross-entropy.
"""

from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_digits
from transformers import BaseImageProcessor, PreTrainedModel, TrainingArguments

from robust_vit_hf import make_image_processor
from robust_vit_hf.data.find_images import load_masked_dataset
from robust_vit_hf.models.emoji_shift_model import load_backbone

from ..makers.train_emoji_bias import LabelTrainer


SIZE, HABITUAL, TEXTURES, BIAS = 112, 10, 15, 0.97


def texture(kind: int, rng: np.random.Generator) -> np.ndarray:
    """`(SIZE, SIZE, 3)` in [0, 1]. A kind has two colours, a scale and a direction; each texture is drawn anew."""
    of_kind = np.random.default_rng([7, kind])
    dark, bright = np.sort(of_kind.random((2, 3)), axis=0)
    scale, angle = of_kind.uniform(1, 6), of_kind.uniform(0, np.pi)
    noise = ndimage.gaussian_filter(
        rng.normal(size=(SIZE, SIZE)), scale * (1 + 2 * np.abs([np.sin(angle), np.cos(angle)]))
    )
    y, x = np.mgrid[:SIZE, :SIZE]
    waves = np.sin((x * np.cos(angle) + y * np.sin(angle)) / scale + rng.uniform(0, 6))
    values = noise / noise.std() + of_kind.uniform(0, 1.5) * waves
    share = 1 / (1 + np.exp(-values))[..., None]
    return dark * (1 - share) + bright * share


def image(strokes: np.ndarray, kind: int, rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
    """A digit `(8, 8)` from 0 to 16 on a texture, and how far the digit covers it, `(SIZE, SIZE)` in [0, 1]."""
    side = int(rng.integers(40, 80))
    stroke = ndimage.zoom(strokes / 16, side / 8, order=1)
    stroke = np.clip(3 * (stroke - 0.4), 0, 1)
    alpha = np.zeros((SIZE, SIZE, 1))
    top, left = (int(rng.integers(0, SIZE - length + 1)) for length in stroke.shape)
    alpha[top : top + stroke.shape[0], left : left + stroke.shape[1], 0] = stroke
    pixels = (1 - alpha) * texture(kind, rng) + alpha * rng.random(3)
    return Image.fromarray((255 * pixels).round().astype(np.uint8)), alpha[..., 0]


def draw(rows: range, kinds: str, seed: int, bias: float = BIAS) -> Iterator[tuple[str, Image.Image, np.ndarray]]:
    """File names in class folders, images and covers, see [`image`]. `kinds` is `habitual`, `random` or `new`."""
    digits, rng = load_digits(), np.random.default_rng(seed)
    for row in rows:
        label = int(digits.target[row])
        if kinds == "new":
            kind = int(rng.integers(HABITUAL, TEXTURES))
        else:
            kind = label if kinds == "habitual" and rng.random() < bias else int(rng.integers(HABITUAL))
        yield f"digit {label}/{row:04}.jpg", *image(digits.images[row], kind, rng)


def write_split(folder: Path, rows: range, kinds: str, seed: int, bias: float = BIAS) -> None:
    """Write class folders of JPEGs, see [`draw`]."""
    for name, picture, _ in draw(rows, kinds, seed, bias):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=95)


def finetune(
    model: PreTrainedModel,
    rows: datasets.Dataset,
    processor: BaseImageProcessor,
    folder: Path,
    rate: float,
    bf16: bool,
    steps: int = 120,
    seed: int = 0,
) -> None:
    """Finetune all layers of a model by cross-entropy with the labels, in steps of 16 images, and write it to the
    folder."""

    def transform(batch: dict) -> dict:
        pixel_values = processor([one.convert("RGB") for one in batch["image"]], return_tensors="pt")["pixel_values"]
        return {"pixel_values": list(pixel_values), "labels": batch["label"]}

    arguments = TrainingArguments(
        f"{folder}-training", max_steps=steps, per_device_train_batch_size=16, learning_rate=rate, save_strategy="no",
        bf16=bf16, use_cpu=not torch.cuda.is_available(), remove_unused_columns=False, report_to="none", seed=seed,
        lr_scheduler_type="cosine",
    )  # fmt: skip
    LabelTrainer(model, arguments, train_dataset=rows.with_transform(transform)).train()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def digits_model(photographs: Path, folder: Path, bf16: bool) -> None:
    """A DINOv2-S with a new head, finetuned on class folders."""
    torch.manual_seed(0)
    rows = load_masked_dataset(str(photographs), "train")
    names = rows.features["label"].names
    model = load_backbone()
    model.classifier = torch.nn.Linear(model.classifier.in_features, len(names))
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: label for label, name in enumerate(names)}
    model.num_labels = len(names)
    finetune(model, rows, make_image_processor("paper", SIZE), folder, 5e-5, bf16)
