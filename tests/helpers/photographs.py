"""Photographs with backgrounds that go with their classes, and classifiers that learned them to a different degree. Weights and
pixels are NumPy's, so that no other library's random numbers matter."""

import csv
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForImageClassification, PreTrainedModel

from robust_vit_hf import load_image_set, make_image_processor

from . import layouts
from .architectures import FAMILIES, WITHOUT_MAP
from .tiny import PRETRAINING, named


NAMES = ("dot", "bar", "cross", "ring")  # classes in the order of the models, which is not that of the alphabet
COLOURS = np.array([[150, 60, 60], [60, 140, 70], [60, 80, 160], [140, 130, 50]])  # of the usual backgrounds
SIZES = ((52, 40), (40, 56), (48, 48), (64, 44), (44, 72))  # width and height
COUNTS = {"train": (5, 4, 6, 3), "validation": (9, 12, 7, 10)}  # of each class


def write_inputs(root: Path) -> None:
    """Write all that the commands of `test_numbers.py` read."""
    write_photographs(root)
    write_annotations(root)
    named_classes = named(NAMES)
    cnn = WITHOUT_MAP["ResNet"].tiny()
    cnn.config.update(named_classes)
    models = {
        "vit": (FAMILIES["ViT"].tiny(**named_classes), 32, 0.9),
        "still": (FAMILIES["ViT"].tiny(**named_classes), 32, 0.6),
        "dino": (FAMILIES["Dinov2WithRegisters"].tiny(**named_classes), (32, 48), 0.3),
        "cnn": (cnn, (40, 32), 0.8),
    }
    for seed, (name, (model, size, share)) in enumerate(models.items()):
        rng, labels, images = np.random.default_rng(seed), [number % 4 for number in range(40)], []
        for number, label in enumerate(labels):
            place = label if rng.random() < share else int(rng.integers(4))
            images.append(photograph(label, place, rng, number)[0])
        write_model(model, root / name, make_image_processor("native", size, PRETRAINING), seed, images, labels)
    folders = layouts.miniatures(root / "official")
    rows = [row for name, folder in folders.items() for row in load_image_set(name, folder)]
    labels = [row["label"] if isinstance(row["label"], int) else next(iter(row["label"]), 5) for row in rows]
    processor = make_image_processor("native", 32, PRETRAINING)
    for seed, name in ((4, "wide"), (5, "wider")):  # of ImageNet's classes, fitted to different images
        chosen = [place for place in range(len(rows)) if (place + seed) % 3]
        images, of_them = [rows[place]["image"] for place in chosen], [labels[place] for place in chosen]
        write_model(FAMILIES["ViT"].tiny(num_labels=1000), root / name, processor, seed, images, of_them)


def photograph(label: int, usual: int, rng: np.random.Generator, number: int) -> tuple[Image.Image, Image.Image]:
    """Object of the shape of a class on the usual background of another, and its mask, of a size in turn."""
    width, height = SIZES[number % len(SIZES)]
    y, x = np.mgrid[:height, :width] + 0.5
    top, left = rng.uniform(0.35, 0.6) * height, rng.uniform(0.35, 0.6) * width
    radius = rng.uniform(0.2, 0.3) * min(width, height)
    down, right = np.abs(y - top) / radius, np.abs(x - left) / radius
    distance, is_cross = np.hypot(down, right), (np.maximum(down, right) < 1) & (np.minimum(down, right) < 0.3)
    ring = (distance < 1) & (distance > 0.45)
    mask = (distance < 0.8, (down < 0.35) & (right < 1), is_cross, ring)[label]
    waves = 30 * np.sin(x / rng.uniform(2, 6) + y / rng.uniform(3, 9) + rng.uniform(0, 6))
    pixels = COLOURS[usual] + waves[..., None] + rng.normal(0, 8, (height, width, 3))
    pixels[mask] = rng.uniform(170, 250, 3) + rng.normal(0, 5, (mask.sum(), 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), Image.fromarray(np.uint8(255) * mask)


def write_photographs(root: Path) -> None:
    """Class folders with a CSV, and their masks in others; and the same with masks beside the images."""
    rng = np.random.default_rng(7)
    for split, counts in COUNTS.items():
        labels, lines, files = rng.permutation(np.repeat(np.arange(4), counts)).tolist(), [], []
        for number, label in enumerate(labels):
            usual = label if rng.random() < 0.75 else int(rng.integers(4))
            picture, mask = photograph(label, usual, rng, number)
            picture = picture.convert({3: "L", 5: "RGBA"}.get(number, "RGB"))
            mask = Image.new("L", mask.size) if number == 6 else mask
            name, site = f"{NAMES[label]}/{number}.png", ("hill", "Hafen", "zoo")[number % 3]
            layouts.save(picture, root / "photographs" / split / name)
            layouts.save(mask, root / "masks" / split / name)
            layouts.save(picture, root / "masked" / split / f"{number}.png")
            layouts.save(mask, root / "masked" / split / f"{number}_mask.png")
            names = {"image_file_name": f"{number}.png", "mask_file_name": f"{number}_mask.png"}
            files.append(json.dumps(names | {"label": NAMES[label], "group": site}))
            lines.append([name, NAMES[label], "no" if number % 5 else "yes"])
        (root / "masked" / split / "metadata.jsonl").write_text("\n".join(files))
        with (root / "photographs" / split / "metadata.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["file_name", "label", "flash"], *lines])


def write_annotations(root: Path) -> None:
    """Boxes and polygons of some photographs, of two categories."""
    photos, images, annotations = root / "photographs" / "train", [], []
    for number, path in enumerate(sorted(photos.rglob("*.png"))[:8]):
        width, height = Image.open(path).size
        name = path.relative_to(photos).as_posix()
        images.append({"id": 40 - number, "file_name": name, "width": width, "height": height})
        one = {"id": number, "image_id": 40 - number, "category_id": 3 + number % 2, "bbox": [3.5, 4, 11, 20 + number]}
        annotations += [one, one | {"segmentation": [[10, 5, 30, 8, 24, 31 + number]]}] if number != 4 else []
    categories = [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco.json").write_text(json.dumps(content))


def write_model(model: PreTrainedModel, folder: Path, processor, seed: int, images=(), labels=()) -> None:
    """Write a model with weights that depend on their names alone, and a head that is fitted to images."""
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name, values in weights.items():
        drawn = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(values.shape)
        if name.endswith("running_var") or (name.endswith("weight") and "norm" in name):
            drawn = np.exp(0.2 * drawn)
        else:
            drawn *= (1.5 / values[0].size) ** 0.5 if values.ndim > 1 else 0.2
        weights[name] = np.asarray(drawn, np.float32) if values.dtype == np.float32 else values
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    processor.save_pretrained(folder)
    fit_head(folder, processor, images, labels)


@torch.no_grad()
def fit_head(folder: Path, processor, images: list[Image.Image], labels: list[int]) -> None:
    """Ridge regression of the last layer."""
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    for image in images:
        model(**processor([image], return_tensors="pt"))
    features, wanted = torch.cat(seen).double().numpy(), 6 * np.eye(model.config.num_labels)[labels] - 2
    centred = features - features.mean(axis=0)
    covariance = centred.T @ centred
    ridge = 0.05 * covariance.trace() / len(covariance) * np.eye(len(covariance))
    weight = np.linalg.solve(covariance + ridge, centred.T @ wanted).T
    head.weight.copy_(torch.from_numpy(weight))
    head.bias.copy_(torch.from_numpy(wanted.mean(axis=0) - weight @ features.mean(axis=0)))
    model.save_pretrained(folder)
