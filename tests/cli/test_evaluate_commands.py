"""`robust-vit evaluate` and `robust-vit segment`, on miniatures of every set of the paper."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from robust_vit_hf import make_image_processor
from robust_vit_hf.data.transforms import segmentation_transform
from robust_vit_hf.evaluation import segment
from robust_vit_hf.evaluation.options import SegmentOptions
from robust_vit_hf.relevance.attribution import ATTRIBUTION_METHODS

from ..helpers import layouts
from ..helpers.commands import call, launch_two, succeed
from ..helpers.sessions import session_of
from ..helpers.tiny import IMAGE_SIZE, masked_dataset, save_pretrained, tiny_vit


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    """Two models of 1000 classes. The second differs by little, so that some predictions change."""
    before, after = tiny_vit(num_labels=1000), tiny_vit(num_labels=1000)
    torch.manual_seed(1)
    with torch.no_grad():
        after.classifier.weight += 0.2 * torch.randn_like(after.classifier.weight)
    root = tmp_path_factory.mktemp("models")
    return [save_pretrained(before, root / "before"), save_pretrained(after, root / "after")]


@pytest.fixture(scope="module")
def segmentation(models, tmp_path_factory) -> tuple[list[tuple[np.ndarray, np.ndarray]], list, Path]:
    """Images with masks, options of the command for ImageNet-Segmentation of them, and its output folder."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("segmentation")
    examples = []
    for width in (24, 30, 40, 33, 28):
        mask = np.zeros((36, width), dtype=np.uint8)
        mask[8:20, 6:18] = 1
        examples.append((rng.integers(0, 256, (36, width, 3), dtype=np.uint8), mask))
    archive = layouts.segmentation_mat(root / "gtsegs_ijcv.mat", examples)
    options = ["--model", models[0], "--compare", models[1], "--set", f"imagenet-segmentation={archive}"]
    options += ["--protocol", "paper", "--batch_size", 2, "--output_dir"]
    succeed("segment", *options, root / "out")
    return examples, options, root / "out"


def segmentation_scores(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())["scores"]["imagenet-segmentation"]


def test_segmentation(segmentation, models):
    """The pixel accuracy of the paper's attribution method, from the definition."""
    examples, _, output = segmentation
    model = AutoModelForImageClassification.from_pretrained(models[0])
    size, inside, total = (IMAGE_SIZE, IMAGE_SIZE), 0, 0
    for image, mask in examples:
        pixel_values = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        pixel_values = torch.nn.functional.interpolate(pixel_values, size, mode="bilinear", antialias=True) / 127.5 - 1
        relevance = ATTRIBUTION_METHODS["gae"](model, pixel_values).relevance[0, 0].detach()
        squashed = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None], size, mode="nearest-exact")
        inside += ((relevance > relevance.mean()) == squashed[0, 0].bool()).sum().item()
        total += relevance.numel()
    measured = segmentation_scores(output)["before"]["gae"]["pixel_accuracy"]
    assert measured == pytest.approx(inside / total, abs=0.02)  # pixels are rounded


def test_the_figure_shows_evenly_spaced_images_that_may_be_shown(monkeypatch):
    rows = masked_dataset(20).add_column("openly_licensed", [index % 5 > 0 for index in range(20)])
    masks = segmentation_transform(make_image_processor("paper", IMAGE_SIZE))(rows[:])["mask"]
    grids = []
    monkeypatch.setattr(segment, "save_picture_grid", lambda grid, path: grids.append(grid))
    segment.write_attribution_figure(session_of({"before": tiny_vit()}, {}), rows, ["rollout"], Path("unused"))
    assert [[name for name, _ in line] for line in grids[0]] == 8 * [["image", "mask", "rollout"]]
    for line, index in zip(grids[0], (1, 3, 6, 8, 11, 13, 16, 18), strict=True):
        assert (line[1][1] == masks[index].permute(1, 2, 0).numpy()).all()


@pytest.mark.release
def test_segmentation_in_two_processes(segmentation, tmp_path):
    _, options, output = segmentation
    completed = launch_two("eval/evaluate_segmentation.py", *options, tmp_path)
    assert completed.status == 0, completed.err
    assert completed.out.count("| gae, original |") == 1
    one, two = segmentation_scores(output), segmentation_scores(tmp_path)
    for side, methods in one.items():
        for method, scores in methods.items():
            assert two[side][method] == pytest.approx(scores, abs=5e-3)  # pixels at the threshold fall on either side


def test_bundled_images_without_masks_are_not_segmented():
    _, rows = segment._masked_set(SegmentOptions(images_per_set=2))
    assert len(rows) == 4 and None not in rows.with_format(None)["mask"]


@pytest.mark.parametrize("command", ["evaluate", "segment", "train"])
def test_results_are_not_written_among_the_images(command, tmp_path):
    """The next command would read plots and pictures as images."""
    layouts.class_folders(tmp_path / "photos" / "validation", {"a": 1, "b": 1})
    before = {*tmp_path.rglob("*")}
    refused = call(
        command, "--dataset", tmp_path / "photos", "--output_dir", tmp_path / "photos" / "validation" / "out"
    )
    assert refused.status and "is within" in refused.error and {*tmp_path.rglob("*")} == before
    (tmp_path / "file").touch()
    assert "file` is a file, not a folder" in call(command, "--output_dir", tmp_path / "file" / "out").error
