"""Models, images and sets for records of commands. Weights and pixels are NumPy's, so that no other library's random numbers matter."""

import csv
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForImageClassification, PreTrainedModel

from robust_vit_hf import load_image_set, load_masked_dataset, make_image_processor
from robust_vit_hf.data.emoji_shift import CLASS_NAMES, compose
from robust_vit_hf.data.known_sets import IMAGENET_9_VARIATIONS

from ..masks.test_grounded import make_models
from ..masks.test_sam3 import make_sam3
from ..models.test_clip import make_clip
from . import layouts
from .architectures import WITHOUT_MAP
from .experiment import result_rows, write_rows
from .families import FAMILIES
from .tiny import GOLDFISH, PRETRAINING, STINGRAY, TENCH, TOILET_TISSUE, named


NAMES = ("dot", "bar", "cross", "ring")  # classes in the order of the models, which is not that of the alphabet
NAMED = named(NAMES)
COLOURS = np.array([[150, 60, 60], [60, 140, 70], [60, 80, 160], [140, 130, 50]])  # of the habitual backgrounds
SIZES = ((52, 40), (40, 56), (48, 48), (64, 44), (44, 72))  # width and height
COUNTS = {"train": (5, 4, 6, 3), "validation": (9, 12, 7, 10)}  # of each class


def write_inputs(root: Path) -> None:
    write_photographs(root)
    write_annotations(root)
    write_models(root)
    write_sets(root / "official")
    write_wide_models(root)
    options = {"model": "still", "dataset": "masked", "train_split": "train[:12]", "eval_split": "validation[:16]"}
    options |= {"num_train_epochs": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    grid = {"options": options, "variants": {"swap": {"method": "swap", "learning_rate": [1e-3, 1e-2]}}}
    grid |= {"seeds": {"0": {"seed": 0}, "b": {"seed": 4}}, "choose_by": "mixed_rand", "validation_bound": 0.2}
    (root / "grid.yaml").write_text(json.dumps(grid | {"interpolation_weights": [0.7, 0.3]}))
    (root / "paper").mkdir()
    rises = {"validation_after": 0.9, "training_classes": None}  # by more than may be lost
    rows = [
        row | (rises if row["model"] == "DeiT-B" and row["learning_rate"] == 1e-5 else {}) for row in result_rows()
    ]
    write_rows(root / "paper" / "results.parquet", rows)
    rows = load_masked_dataset(str(root / "masked"), "train")
    rows = rows.map(lambda row: {name: row[name].copy() for name in ("image", "mask")})  # without the paths of files
    rows.to_parquet(root / "rows" / "train-00000.parquet")
    rows = load_masked_dataset(str(root / "masked"), "validation")
    rows = rows.map(lambda row, number: {"label": -1 if number % 3 == 1 else row["label"]}, with_indices=True)
    rows.to_parquet(root / "partly" / "validation-00000.parquet")
    layouts.save(Image.new("RGB", (90_000, 1)), root / "narrow.png")
    (root / "classes.txt").write_text("house\nbird\n\nfish tank\n")
    (root / "prompts.json").write_text(json.dumps({"dot": ["head", "tail"], "bar": ["dog"]}))
    (root / "words.json").write_text(json.dumps({name: [word] for name, word in zip(NAMES, "abcd", strict=True)}))
    recipe = options | {"method": "gradmask", "background_weight": 0.2}
    (root / "recipe.yaml").write_text(json.dumps(recipe | {"learning_rate": 0.003, "max_steps": 3}))
    (root / "classes_of_clip.txt").write_text("tench\ngold fish\nhouse\n")
    write_bad_rows(root / "masked" / "validation", root / "bad" / "train")


def photograph(label: int, habitual: int, rng: np.random.Generator, number: int) -> tuple[Image.Image, Image.Image]:
    """Object of the shape of a class on the background of another, and its mask, of a size in turn."""
    width, height = SIZES[number % len(SIZES)]
    y, x = np.mgrid[:height, :width] + 0.5
    top, left = rng.uniform(0.35, 0.6) * height, rng.uniform(0.35, 0.6) * width
    radius = rng.uniform(0.2, 0.3) * min(width, height)
    down, right = np.abs(y - top) / radius, np.abs(x - left) / radius
    distance, is_cross = np.hypot(down, right), (np.maximum(down, right) < 1) & (np.minimum(down, right) < 0.3)
    ring = (distance < 1) & (distance > 0.45)
    mask = (distance < 0.8, (down < 0.35) & (right < 1), is_cross, ring)[label]
    waves = 30 * np.sin(x / rng.uniform(2, 6) + y / rng.uniform(3, 9) + rng.uniform(0, 6))
    pixels = COLOURS[habitual] + waves[..., None] + rng.normal(0, 8, (height, width, 3))
    pixels[mask] = rng.uniform(170, 250, 3) + rng.normal(0, 5, (mask.sum(), 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), Image.fromarray(np.uint8(255) * mask)


def write_photographs(root: Path) -> None:
    """Class folders with a CSV, and their masks in others; the same with masks beside the images; and pictures of backgrounds."""
    rng = np.random.default_rng(7)
    for split, counts in COUNTS.items():
        labels, lines, files = rng.permutation(np.repeat(np.arange(4), counts)).tolist(), [], []
        for number, label in enumerate(labels):
            habitual = label if rng.random() < 0.75 else int(rng.integers(4))
            picture, mask = photograph(label, habitual, rng, number)
            picture = picture.convert({3: "L", 5: "RGBA"}.get(number, "RGB"))
            mask = Image.new("L", mask.size) if number == 6 else mask
            name, site = f"{NAMES[label]}/{number}.png", ("hill", "Hafen", "zoo")[number % 3]
            layouts.save(picture, root / "photographs" / split / name)
            layouts.save(mask, root / "masks" / split / name)
            layouts.save(picture, root / "masked" / split / f"{number}.png")
            layouts.save(mask, root / "masked" / split / f"{number}_mask.png")
            names = {"image_file_name": f"{number}.png", "mask_file_name": f"{number}_mask.png"}
            files.append(json.dumps(names | {"label": NAMES[label], "group": site}))
            group, flash = f"{NAMES[label][0]} {site if number % 4 else 'x'}", "no" if number % 5 else "yes"
            lens = "own" if number % 4 else "lent"
            lines.append([name, NAMES[label], site, number % 2 + 1, group, flash, lens])
        (root / "masked" / split / "metadata.jsonl").write_text("\n".join(files))
        with (root / "photographs" / split / "metadata.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["file_name", "label", "site", "camera", "group", "flash", "lens"], *lines])
    for number in range(5):
        pixels = np.linspace(rng.uniform(0, 200, 3), rng.uniform(50, 255, 3), 40 * 56).reshape(40, 56, 3)
        layouts.save(Image.fromarray(pixels.astype(np.uint8)), root / "pictures" / f"{number}.png")


def write_bad_rows(rows: Path, root: Path) -> None:
    """Images with masks of which some cannot be used: one is cut off, masks are missing, empty, full, or of another image's size."""
    shutil.copytree(rows, root)
    image, mask = root / "0.png", Image.open(root / "1_mask.png")
    image.write_bytes(image.read_bytes()[:500])
    mask.resize((31, 17)).save(root / "1_mask.png")
    (root / "2_mask.png").unlink()
    for number, grey in ((3, 0), (4, 255)):
        Image.new("L", Image.open(root / f"{number}.png").size, grey).save(root / f"{number}_mask.png")


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


def write_models(root: Path) -> None:
    """Classifiers that were fitted to backgrounds which are habitual to a different share of the images, and mask makers."""
    vit, dropout, cnn = FAMILIES["ViT"], {"hidden_dropout_prob": 0.1}, WITHOUT_MAP["ResNet"].tiny()
    cnn.config.update(NAMED)
    kinds = {
        "vit": (vit.tiny(**NAMED, **dropout), 32, 0.9),
        "still": (vit.tiny(**NAMED), 32, 0.6),
        "dino": (FAMILIES["Dinov2WithRegisters"].tiny(**NAMED, **dropout), (32, 48), 0.3),
        "cnn": (cnn, (40, 32), 0.8),
    }
    for seed, (name, (model, size, share)) in enumerate(kinds.items()):
        rng, labels, images = np.random.default_rng(seed), [number % 4 for number in range(40)], []
        for number, label in enumerate(labels):
            place = label if rng.random() < share else int(rng.integers(4))
            images.append(photograph(label, place, rng, number)[0])
        processor = make_image_processor("native", size, PRETRAINING)
        write_model(model, root / name, processor, seed, images, labels)
    emoji = [compose("train", number)["image"] for number in range(96)]
    of_emoji = vit.tiny(num_labels=96)
    of_emoji.config.update({"id2label": dict(enumerate(CLASS_NAMES))})
    write_model(of_emoji, root / "emoji", make_image_processor("native", 32, PRETRAINING), 9, emoji, [*range(96)])
    detector, detector_processor, segmenter, segmenter_processor = make_models()
    detector_processor.image_processor.size = {"shortest_edge": 128, "longest_edge": 192}
    write_model(detector, root / "detector", detector_processor, 6)
    write_model(segmenter, root / "segmenter", segmenter_processor, 7)
    for name, (model, model_processor) in {"sam3": make_sam3(), "clip": make_clip()}.items():
        write_model(model, root / name, model_processor, 8)


def write_model(model: PreTrainedModel, folder: Path, processor, seed: int, images=(), labels=()) -> None:
    """Write a model with weights that depend on their names alone, and a head that is fitted to images, if there are any."""
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name, values in weights.items():
        drawn = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(values.shape)
        is_scale = name.endswith("running_var") or (name.endswith("weight") and "norm" in name)
        drawn = (
            np.exp(0.2 * drawn) if is_scale else drawn * ((1.5 / values[0].size) ** 0.5 if values.ndim > 1 else 0.2)
        )
        weights[name] = np.asarray(drawn, np.float32) if values.dtype == np.float32 else values
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    processor.save_pretrained(folder)
    if images:
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


def write_sets(root: Path) -> None:
    """Miniatures of sets in their official layouts."""
    layouts.miniatures(root)
    layouts.imagenet_9(root / "bg_challenge", {"00_dog": 2, "02_wheeled vehicle": 1}, IMAGENET_9_VARIATIONS)
    of_d = {"background": {"backpack": 1, "car": 2}}
    layouts.imagenet_d(root / "ImageNet-D", {"backpack": ["414"], "car": [817, 436]}, of_d)
    for number, part in enumerate(("common-snow", "counter-grass")):
        layouts.class_folders(root / "LAION-final" / "9 ostrich", {part: number + 1})
        layouts.class_folders(root / "LAION-final" / "296 ice bear", {part: 2 - number})
    names = {TENCH: ["ILSVRC2012_val_00000007"], GOLDFISH: ["ILSVRC2012_val_00000009"]}
    layouts.hard_imagenet(root / "hardImageNet", root / "imagenet-of-hard", names)
    layouts.waterbirds(root / "birds", [(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 2), (1, 1, 2)])
    ids = {TENCH: 1, GOLDFISH: 2, STINGRAY: 7, TOILET_TISSUE: 919}
    layouts.tar_of(root / "a", root / "a.tar")
    shutil.copytree(root / "a", root / "broken")
    broken = min((root / "broken").rglob("*.[jJ]*"))
    broken.write_bytes(broken.read_bytes()[:200])
    shutil.make_archive(str(root / "r"), "zip", root, "r")
    rng = np.random.default_rng(8)
    drawn = [photograph(label, label, rng, label) for label in range(3)]
    layouts.segmentation_mat(
        root / "gt.mat", [tuple(np.asarray(part) // (1, 255)[part.mode == "L"] for part in pair) for pair in drawn]
    )
    layouts.imagenet_s(root / "s", ids, {wnid: [f"{wnid}_{number}" for number in range(4)] for wnid in ids})


def write_wide_models(root: Path) -> None:
    """Two models of ImageNet's classes, whose heads are fitted to different images of some sets."""
    folders = {"imagenet-1k": "imagenet", "imagenet-a": "a", "imagenet-r": "r", "objectnet": "objectnet-1.0"}
    folders |= {"si-score-rotation": "rotation/rotation"}
    rows = [row for name, folder in folders.items() for row in load_image_set(name, root / "official" / folder)]
    firsts = [row["label"] if isinstance(row["label"], int) else next(iter(row["label"]), 5) for row in rows]
    processor = make_image_processor("native", 32, PRETRAINING)
    for name, seed in (("wide", 4), ("wider", 5)):
        chosen = [place for place in range(len(rows)) if (place + seed) % 3]
        images, labels = [rows[place]["image"] for place in chosen], [firsts[place] for place in chosen]
        write_model(FAMILIES["ViT"].tiny(num_labels=1000), root / name, processor, seed, images, labels)
