"""Models and images for records of commands: weights and pixels are NumPy's, so that no other library's random numbers matter."""

import csv
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from robust_vit_hf import load_image_set, make_image_processor

from .families import FAMILIES
from .tiny import PRETRAINING


NAMES = ("dot", "bar", "cross", "ring")  # classes in the order of the models, which is not that of the alphabet
NAMED = {"id2label": dict(enumerate(NAMES)), "label2id": {name: label for label, name in enumerate(NAMES)}}
COLOURS = np.array([[150, 60, 60], [60, 140, 70], [60, 80, 160], [140, 130, 50]])  # of the habitual backgrounds
SIZES = ((52, 40), (40, 56), (48, 48), (64, 44), (44, 72))  # width and height
COUNTS = {"train": (5, 4, 6, 3), "validation": (9, 12, 7, 10)}


def photograph(
    label: int, habitual: int, rng: np.random.Generator, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Object of the shape of a class on the background of another, and its mask."""
    width, height = size
    y, x = np.mgrid[:height, :width] + 0.5
    top, left, radius = (
        rng.uniform(0.35, 0.6) * height,
        rng.uniform(0.35, 0.6) * width,
        rng.uniform(0.2, 0.3) * min(size),
    )
    down, right = np.abs(y - top) / radius, np.abs(x - left) / radius
    distance = np.hypot(down, right)
    mask = (
        distance < 0.8,
        (down < 0.35) & (right < 1),
        (down < 1) & (right < 1) & (np.minimum(down, right) < 0.3),
        (distance < 1) & (distance > 0.45),
    )[label]
    waves = 30 * np.sin(x / rng.uniform(2, 6) + y / rng.uniform(3, 9) + rng.uniform(0, 6))
    pixels = COLOURS[habitual] + waves[..., None] + rng.normal(0, 8, (height, width, 3))
    pixels[mask] = rng.uniform(170, 250, 3) + rng.normal(0, 5, (mask.sum(), 3))
    return pixels.clip(0, 255).astype(np.uint8), mask


def write_photographs(root: Path) -> None:
    """`photographs/<split>/<class>/<n>.png` with `metadata.csv`, `masks/<split>/<class>/<n>.png`, and `pictures/<n>.png`: backgrounds."""
    rng = np.random.default_rng(7)
    for split, counts in COUNTS.items():
        labels, lines = rng.permutation(np.repeat(np.arange(4), counts)), []
        files = []
        for number, label in enumerate(labels.tolist()):
            habitual = label if rng.random() < 0.75 else int(rng.integers(4))
            pixels, mask = photograph(label, habitual, rng, SIZES[number % 5])
            picture = Image.fromarray(pixels)
            picture = picture.convert("L") if number == 3 else picture.convert("RGBA") if number == 5 else picture
            mask = np.zeros_like(mask) if number == 6 else mask
            name = f"{NAMES[label]}/{number}.png"
            for folder, image in (("photographs", picture), ("masks", Image.fromarray(np.uint8(255) * mask))):
                path = root / folder / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
            site = ("hill", "Hafen", "zoo")[number % 3]
            for kind, image in (("", picture), ("_mask", Image.fromarray(np.uint8(255) * mask))):
                path = root / "masked" / split / f"{number}{kind}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
            files.append(
                {"image_file_name": f"{number}.png", "mask_file_name": f"{number}_mask.png", "label": NAMES[label]}
            )
            lines.append(
                [name, NAMES[label], site, number % 2 + 1, f"{NAMES[label][0]} {site if number % 4 else 'x'}"]
            )
        with (root / "photographs" / split / "metadata.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["file_name", "label", "site", "camera", "group"], *lines])
        (root / "masked" / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, files)))
    (root / "pictures").mkdir()
    for number in range(5):
        pixels = np.linspace(rng.uniform(0, 200, 3), rng.uniform(50, 255, 3), 40 * 56).reshape(40, 56, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(root / "pictures" / f"{number}.png")


def write_model(
    model: PreTrainedModel,
    folder: Path,
    processor,
    seed: int,
    images: Sequence[Image.Image] = (),
    labels: Sequence[int] = (),
) -> Path:
    """Write a model with weights by their names alone, and a head that is fitted to images, if there are any."""
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name, values in weights.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        drawn = rng.standard_normal(values.shape)
        if name.endswith(("running_var", "norm.weight", "normalization.weight")) or (
            "layernorm" in name and name.endswith("weight")
        ):
            drawn = np.exp(0.2 * drawn)
        elif values.ndim > 1:
            drawn *= (1.5 / values[0].size) ** 0.5
        elif values.ndim:
            drawn *= 0.2
        weights[name] = drawn.astype(np.float32) if values.dtype == np.float32 else values
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    processor.save_pretrained(folder)
    if not images:
        return folder
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        for image in images:
            pixels = processor([image], return_tensors="pt")["pixel_values"]
            more = {"interpolate_pos_encoding": True} if model.config.model_type == "vit" else {}
            model(pixels, **more)
    features = torch.cat(seen).double().numpy()
    centred = features - features.mean(axis=0)
    wanted = 6 * np.eye(model.config.num_labels)[labels] - 2
    ridge = 0.05 * np.trace(centred.T @ centred) / centred.shape[1] * np.eye(centred.shape[1])
    weight = np.linalg.solve(centred.T @ centred + ridge, centred.T @ wanted).T
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(wanted.mean(axis=0) - weight @ features.mean(axis=0)))
    model.save_pretrained(folder)
    return folder


def write_inputs(root: Path) -> Path:
    """Photographs and models, of which each was fitted to others: the backgrounds of `dino`'s are habitual least often."""
    write_photographs(root)
    dropout, kinds = {"hidden_dropout_prob": 0.1}, {}
    kinds["vit"] = (FAMILIES["ViT"].tiny(**NAMED, **dropout), 32, 0.9)
    kinds["still"] = (FAMILIES["ViT"].tiny(**NAMED), 32, 0.6)
    kinds["dino"] = (FAMILIES["Dinov2WithRegisters"].tiny(**NAMED, **dropout), (32, 48), 0.3)
    settings = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4}
    kinds["cnn"] = (ResNetForImageClassification(ResNetConfig(**settings, **NAMED)), (40, 32), 0.8)
    for seed, (name, (model, size, habitual)) in enumerate(kinds.items()):
        rng, labels, images = np.random.default_rng(seed), [number % 4 for number in range(40)], []
        for number, label in enumerate(labels):
            place = label if rng.random() < habitual else int(rng.integers(4))
            images.append(Image.fromarray(photograph(label, place, rng, SIZES[number % 5])[0]))
        processor = make_image_processor("native", size, PRETRAINING)
        write_model(model, root / name, processor, seed, images, labels)
    return root


def write_wide(root: Path, folders: dict[str, Path]) -> None:
    """Two models of ImageNet's classes, whose heads are fitted to some images of sets."""
    rows = [row for name, folder in folders.items() for row in load_image_set(name, folder)]
    firsts = [row["label"] if isinstance(row["label"], int) else next(iter(row["label"]), 5) for row in rows]
    for name, seed in (("wide", 4), ("wider", 5)):
        chosen = [place for place in range(len(rows)) if (place + seed) % 3]
        images, labels = [rows[place]["image"] for place in chosen], [firsts[place] for place in chosen]
        write_model(
            FAMILIES["ViT"].tiny(num_labels=1000),
            root / name,
            make_image_processor("native", 32, PRETRAINING),
            seed,
            images,
            labels,
        )
