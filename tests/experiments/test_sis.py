"""`python -m experiments sis`: every figure of the table, from the saved subsets and the masks; and the subsets:
published cases, exact backward selection, and what a subset must fulfil."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from experiments.paper.sufficient_subsets import (
    backward_selection,
    last_sufficient_step,
    margin,
    sufficient_input_subsets,
)

from ..helpers.commands import files_below, succeed
from ..helpers.tiny import IMAGE_SIZE, masked_folder, save_pretrained, tiny_vit


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model, another, and images with masks and labels."""
    root = tmp_path_factory.mktemp("sis")
    for seed, name in enumerate(("before", "after")):
        save_pretrained(tiny_vit(seed), root / name)
    masked_folder(root / "images")
    Image.new("RGB", (50, 40), "orange").save(root / "orange.png")
    return root


def command(folders, output, *options) -> list:
    models = ["--model", folders / "before", "--compare", folders / "after"]
    settings = ["--threshold", 0.5, "--pixels_per_step", 200, "--output_dir", output]
    return ["experiments", "sis", *models, *settings, *options]


def parts(output: Path, name: str, side: str) -> list[Path]:
    """Files of the batches of a set and model."""
    return sorted((output / "cache").glob(f"{name}-{side}-*/*.safetensors"))


def test_command(folders, tmp_path, datasets_cache):
    """Every figure of the table, from the saved subsets and the masks."""
    options = ["--dataset", folders / "images", "--num_images", 5, "--batch_size", 2]
    out = succeed(*command(folders, tmp_path, *options))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["model"] == "before"
    for side in ("before", "after"):
        batches = [load_file(file) for file in parts(tmp_path, "validation", side)]
        assert [len(batch["found"]) for batch in batches] == [2, 2, 1]
        measured = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        found, summary = measured["found"], results["scores"]["validation"][side]
        assert summary["pairs"] == 5 and summary["found"] == pytest.approx(found.float().mean())
        assert 0 < found.sum() and (measured["confidence"][found] >= 0.5).all()
        assert summary["size"] == pytest.approx(measured["subset"][found].float().mean())
        assert summary["confidence"] == pytest.approx(measured["confidence"][found].mean())
        assert summary["revealed"] == pytest.approx(measured["revealed"][found].mean())
        assert summary["all_masked"] == pytest.approx(measured["margins"][found, -1].sigmoid().mean())
        assert summary["foreground"] == pytest.approx(measured["foreground"][found].nanmean())
        assert summary["image_foreground"] == pytest.approx(measured["image_foreground"][found].mean())
        assert f"| validation, {side} | 5 | {100 * summary['found']:.1f} | {100 * summary['size']:.1f} |" in out
    with Image.open(tmp_path / "sis.png") as figure:
        assert figure.width > figure.height / 2


def test_measures_of_a_subset(folders, tmp_path, datasets_cache):
    """Share on the foreground, and the probability with neighbours, of the image's label, computed plainly."""
    from robust_vit_hf import eval_transform, load_masked_dataset, load_model
    from robust_vit_hf.models.image_processors import load_processor

    succeed(*command(folders, tmp_path, "--dataset", folders / "images", "--num_images", 1))
    measured = load_file(parts(tmp_path, "validation", "before")[0])
    model = load_model(str(folders / "before"))
    row = load_masked_dataset(str(folders / "images"), "validation")[:1]
    batch = eval_transform(load_processor(str(folders / "before"), "model", model))(row)
    (pixel_values,), (mask,) = batch["pixel_values"], batch["mask"]
    expected = sufficient_input_subsets(model, pixel_values[None], row["label"][0], threshold=0.5, pixels_per_step=200)
    assert torch.equal(measured["subset"], expected.subset) and measured["found"].all()
    on_foreground, neighbourhood = 0.0, torch.zeros(IMAGE_SIZE, IMAGE_SIZE)
    pixels = measured["subset"][0, 0].nonzero().tolist()
    for y, x in pixels:
        on_foreground += mask[0, y, x].item()
        neighbourhood[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = 1
    assert 0 < len(pixels) < neighbourhood.sum() and 0 < on_foreground
    assert measured["foreground"].item() == pytest.approx(on_foreground / len(pixels))
    assert measured["image_foreground"].item() == pytest.approx(mask.mean().item())
    with torch.no_grad():
        probability = model((pixel_values * neighbourhood)[None]).logits.softmax(dim=1)[0, row["label"][0]]
    assert measured["revealed"].item() == pytest.approx(probability.item(), rel=1e-4)


def test_finished_batches_are_not_computed_again(folders, tmp_path):
    options = ["--dataset", folders / "images", "--num_images", 3, "--batch_size", 1]
    succeed(*command(folders, tmp_path, *options))
    kept, (first, _, last) = files_below(tmp_path), parts(tmp_path, "validation", "after")
    last.unlink()  # as a kill in between leaves it
    first.parent.rename(f"{first.parent}.partial")
    succeed(*command(folders, tmp_path, *options))
    assert files_below(tmp_path) == kept


def l2_norm(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.flatten(1).norm(dim=1)


def total(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.flatten(1).sum(dim=1)


def regression(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.flatten(1) @ torch.tensor([1.0, 2.0, 0.0, 1.0])


# Values, order and subset from `test_backselect` and `test_find_sis` of google-research/sufficient_input_subsets.
PUBLISHED = [
    (l2_norm, [[0.1, 10, 5]], 1, [0, 2, 1], [math.sqrt(125), 10, 0], {1}),
    (l2_norm, [[0.1, 10, 5]], 10.5, [0, 2, 1], [math.sqrt(125), 10, 0], {1, 2}),
    (l2_norm, [[0.1, 10, 5]], 1000, [0, 2, 1], [math.sqrt(125), 10, 0], None),
    (l2_norm, [[10, 0.1]], 1, [1, 0], [10, 0], {0}),
    (l2_norm, [[3, 4]], 5, [0, 1], [4, 0], {0, 1}),
    (l2_norm, [[3, 4]], 5.1, [0, 1], [4, 0], None),
    (l2_norm, [[10, 10, 10]], 0, [0, 1, 2], [math.sqrt(200), 10, 0], set()),
    (l2_norm, [[0.1, 10, 5, 1]], 11.2, [0, 3, 2, 1], [math.sqrt(126), math.sqrt(125), 10, 0], {1, 2, 3}),
    (total, [[10, 5], [2, 3]], 4, [2, 3, 1, 0], [18, 15, 10, 0], {0}),
    (regression, [[5, 1, 6, 3]], 5, [2, 1, 3, 0], [10, 8, 5, 0], {0}),
]


@pytest.mark.parametrize("score, pixels, threshold, order, values, subset", PUBLISHED)
def test_published_cases(score, pixels, threshold, order, values, subset):
    inputs = torch.tensor(pixels, dtype=torch.float32)[None, None]
    step, scores = backward_selection(score, inputs, 1)
    assert step.flatten().argsort().tolist() == order
    torch.testing.assert_close(scores, torch.tensor([[score(inputs).item(), *values]]))
    last = last_sufficient_step(scores, threshold).item()
    assert (None if last < 0 else set((step.flatten() > last).nonzero().flatten().tolist())) == subset


@pytest.fixture(scope="module")
def model():
    return tiny_vit().double()


@pytest.fixture(scope="module")
def pixel_values():
    return torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture(scope="module")
def pairs(model, pixel_values):
    """Every image with every class, at a threshold that most pairs reach in between."""
    images, classes = pixel_values.repeat_interleave(4, dim=0), torch.arange(4).repeat(3)
    output = sufficient_input_subsets(model, images, classes, threshold=0.5, pixels_per_step=60)
    return images, classes, output


def test_a_fresh_forward_pass_reaches_the_threshold(model, pairs):
    images, classes, output = pairs
    assert output.found.sum() > 4
    sizes = output.subset[output.found].sum(dim=(1, 2, 3))
    assert sizes.min() < IMAGE_SIZE**2 / 4 and len(set(sizes.tolist())) > 3
    with torch.no_grad():
        probability = model(images * output.subset).logits.softmax(dim=1).gather(1, classes[:, None])[:, 0]
    found = output.found
    assert (probability[found] >= 0.5).all()
    assert not output.subset[~found].any() and (output.confidence[~found] < 0.5).all()
    torch.testing.assert_close(probability[found], output.confidence[found])


def test_masks_are_nested_and_every_step_is_scored(model, pairs):
    images, classes, output = pairs
    steps = math.ceil(IMAGE_SIZE**2 / 60)
    assert output.margins.shape == (12, steps + 1) and output.step.min() == 1 and output.step.max() == steps
    sizes = [(output.step > number).sum(dim=(1, 2, 3)).tolist() for number in range(steps + 1)]
    assert sizes == [[max(0, IMAGE_SIZE**2 - 60 * number)] * 12 for number in range(steps + 1)]
    assert all(before[0] > after[0] for before, after in pairwise(sizes))
    with torch.no_grad():
        for number in (0, 7, steps):  # the whole image, one in between, and none of it
            logits = model(images * (output.step > number)).logits
            probability = logits.softmax(dim=1).gather(1, classes[:, None])[:, 0]
            torch.testing.assert_close(output.margins[:, number].sigmoid(), probability)


def test_a_batch_equals_its_members(model, pairs):
    images, classes, output = pairs
    for index in (0, 6, 11):
        single = sufficient_input_subsets(
            model, images[index : index + 1], int(classes[index]), threshold=0.5, pixels_per_step=60
        )
        for name, value in single.items():
            torch.testing.assert_close(value[0], output[name][index])


def test_ranks_where_the_probability_saturates(pixel_values):
    """Probabilities of 1e-15 and of 1 − 1e-15: the order is that of the same model with logits of ordinary size,
    though the gradient of the probability is lost in rounding."""
    images = pixel_values[:1].float().repeat(2, 1, 1, 1)
    weights = torch.randn(3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    orders = []
    for offset in (0.0, 40.0):

        def score(masked, offset=offset):
            logit = (weights * masked).sum(dim=(1, 2, 3)) / 100 + torch.tensor([offset, -offset])
            return margin(torch.stack([logit, torch.zeros(2)], dim=1), 0)

        orders.append(backward_selection(score, images, 100)[0])
    assert torch.equal(*orders)
