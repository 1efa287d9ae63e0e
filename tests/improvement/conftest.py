"""Photographs whose background shows their class too, and a model that decides by it, for `robust-vit improve`."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from ..helpers.attacks import COLOURS, biased_model
from ..helpers.layouts import save
from ..helpers.tiny import named, save_pretrained


SEED = 3  # and not a default
CLASSES = {"circle": 0, "bar": 1, "cross": 2, "dot": 3}
NAMES = named([*CLASSES])


def write_photographs(root: Path, split: str, of_each: int, seed: int) -> None:
    """Class folders of JPEGs: a bright patch whose place shows the class, on a background whose colour does too."""
    rng = np.random.default_rng(seed)
    for name, label in CLASSES.items():
        for number in range(of_each):
            pixels = rng.integers(0, 50, (48 + 8 * (number % 2), 48, 3))
            pixels += 60 * np.array(COLOURS[label])
            top, left = 6 + 18 * (label // 2), 6 + 18 * (label % 2)
            pixels[top : top + 16, left : left + 16] = 230
            save(Image.fromarray(pixels.astype(np.uint8)), root / split / name / f"{number}.jpg")


@pytest.fixture(scope="module")
def better():
    """Every chosen candidate counts as better, so that it is written where it is loaded from."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("robust_vit_hf.improvement.choice.Outcome.key", "better")
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("own")
    write_photographs(root / "photos", "train", 6, seed=0)
    write_photographs(root / "photos", "validation", 8, seed=1)
    rows = datasets.load_dataset("imagefolder", data_dir=str(root / "photos" / "train"), split="train")
    for path in (root / "photos").rglob("*.jpg"):
        mask = Image.fromarray(255 * (np.asarray(Image.open(path)).min(axis=2) > 190).astype(np.uint8))
        save(mask, root / "masks" / path.relative_to(root / "photos").with_suffix(".png"))
    labels = [CLASSES[rows.features["label"].names[label]] for label in rows["label"]]
    save_pretrained(biased_model(rows["image"], labels, **NAMES), root / "model", "paper")
    return root


def options_of(inputs: Path, output: Path) -> list:
    """With masks of the patches, since those that are made take ten times as long as all else."""
    options = ["--model", inputs / "model", "--dataset", inputs / "photos", "--masks", inputs / "masks"]
    options += ["--output_dir", output, "--max_steps", 30, "--learning_rate", 3e-3, "--train_batch_size", 4]
    return [*options, "--seed", SEED, "--effort", "full"]


OBJECT = np.pad(np.full((20, 20), 255, np.uint8), ((10, 18), (10, 18)))


def with_masks(inputs: Path, folder: Path, drawn: dict[str, np.ndarray]) -> list:
    """Options for the photographs with masks in a folder, by class; `.` for all others."""
    for path in sorted((inputs / "photos").rglob("*.jpg")):
        place = (folder / "masks" / path.relative_to(inputs / "photos")).with_suffix(".png")
        height = Image.open(path).height
        shape = drawn.get(path.parent.name, drawn["."])
        save(Image.fromarray(np.pad(shape, ((0, height - 48), (0, 0)), mode="edge")), place)
    return [*options_of(inputs, folder / "out"), "--masks", folder / "masks"]
