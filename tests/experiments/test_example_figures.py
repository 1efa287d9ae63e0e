"""`python -m experiments figures`, and the examples that evaluations save: which images are shown, and why."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification

from robust_vit_hf import eval_transform, make_image_processor, relevance_map
from robust_vit_hf.results.run_results import read_predictions

from ..helpers.commands import succeed
from ..helpers.tiny import IMAGE_SIZE, masked_dataset, save_pretrained, tiny_vit


NUM_IMAGES = 80


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> list:
    """Options of two confident models that often differ, and of images with masks of four classes."""
    root = tmp_path_factory.mktemp("inputs")
    for name, seed in (("before", 0), ("after", 1)):
        model = tiny_vit(seed)
        with torch.no_grad():
            model.classifier.weight *= 8
        save_pretrained(model, root / name)
    masked_dataset(NUM_IMAGES).to_parquet(root / "data" / "validation-00000.parquet")
    return ["--model", root / "before", "--compare", root / "after", "--dataset", root / "data"]


@pytest.fixture(scope="module")
def evaluation(inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    succeed("evaluate", *inputs, "--protocols", "paper", "--output_dir", folder)
    return folder


@pytest.fixture(scope="module")
def figures(evaluation, inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    printed = succeed("experiments", "figures", evaluation, *inputs, "--output_dir", folder)
    assert (folder / "captions.md").read_text() in printed
    return folder


def columns_of(evaluation: Path, side: str) -> dict[str, np.ndarray]:
    table = read_predictions(evaluation / "paper" / "predictions.parquet")["validation"][side]
    predicted, label = (np.array(table[name].tolist())[:, 0] for name in ("predictions", "accepted"))
    return {"predicted": predicted, "label": label, "right": predicted == label}


def shown(folder: Path, number: int) -> list[int]:
    """Rows of the images of a figure, as its caption names them."""
    caption = re.search(rf"^\*\*Figure {number}\*\* .*", (folder / "captions.md").read_text(), re.MULTILINE).group()
    return [int(row) for row in re.search(r"Images: validation, rows ([\d, ]+)\.$", caption).group(1).split(", ")]


def test_the_images_follow_the_rules(figures, evaluation):
    before, after = (columns_of(evaluation, side) for side in ("before", "after"))
    corrected = ~before["right"] & after["right"]
    broken = before["right"] & ~after["right"]
    unchanged = before["predicted"] == after["predicted"]
    rows = np.array(shown(figures, 2))
    assert len(rows) == 12 and unchanged[rows[:4]].all() and corrected[rows[4:8]].all() and broken[rows[8:]].all()
    first, further = shown(figures, 3), shown(figures, 6)
    assert corrected[first + further].all() and len({*first, *further}) == 8
    changes = {
        label: after["right"][before["label"] == label].mean() - before["right"][before["label"] == label].mean()
        for label in range(4)
    }
    harmed = [label for label in sorted(changes, key=changes.get)[:2] if changes[label] < 0]
    assert harmed
    expected = [row for label in harmed for row in np.flatnonzero(broken & (before["label"] == label))[:3]]
    assert shown(figures, 15) == expected


def test_both_rows_of_figure_1_are_in_the_order_that_its_caption_says(evaluation, inputs, tmp_path):
    """First the largest share of the relevance outside the mask, and then the lowest mean relevance within it."""
    options = ["--figures", 1, "--num_examples", 6, "--output_dir", tmp_path]
    succeed("experiments", "figures", evaluation, *inputs, *options)
    model = ViTForImageClassification.from_pretrained(inputs[1])
    transform = eval_transform(make_image_processor("paper", IMAGE_SIZE))
    batch = masked_dataset(NUM_IMAGES).with_transform(transform)[shown(tmp_path, 1)]
    mask = torch.stack(batch["mask"])
    relevance = relevance_map(model, torch.stack(batch["pixel_values"])).relevance
    outside = ((relevance * (1 - mask)).sum((1, 2, 3)) / relevance.sum((1, 2, 3))).tolist()
    within = ((relevance * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))).tolist()
    caption = (tmp_path / "captions.md").read_text()
    assert re.search(r"of 60 images that were drawn at random \(seed 0\), the \d+ .* of at least 90%", caption)
    assert len(outside) == 12 and outside[:6] == sorted(outside, reverse=True)[:6]
    assert within[6:] == sorted(within[6:])
