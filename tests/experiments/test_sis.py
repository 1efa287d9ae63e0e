"""`python -m experiments sis`: every figure of the table, from the saved subsets and the masks."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from experiments.paper.sis import _evenly_spaced
from experiments.paper.sufficient_subsets import sufficient_input_subsets
from robust_vit_hf import make_image_processor
from robust_vit_hf.evaluation.sets import EvaluationSet

from ..helpers.commands import call, files_below, succeed
from ..helpers.tiny import IMAGE_SIZE, masked_dataset, masked_folder, save_pretrained, tiny_vit


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


def test_command(folders, tmp_path, datasets_cache):
    """Every figure of the table, from the saved subsets and the masks."""
    options = ["--dataset", folders / "images", "--num_images", 5, "--batch_size", 2]
    out = succeed(*command(folders, tmp_path, *options))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["model"] == "before"
    for side in ("before", "after"):
        files = sorted((tmp_path / "validation" / side).glob("*.safetensors"))
        batches = [load_file(file) for file in files]
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
    measured = load_file(tmp_path / "validation" / "before" / "00000.safetensors")
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


def test_images_are_evenly_spaced_among_those_with_a_label():
    labels = EvaluationSet(masked_dataset(9), [[], *([label] for label in range(8))])
    chosen = [_evenly_spaced("a", labels, SimpleNamespace(classes=[], num_images=count)).accepted for count in (3, 9)]
    assert chosen == [[[0], [2], [5]], [[label] for label in range(8)]]


def test_two_sets(folders, tmp_path, monkeypatch):
    """The means of all of their pairs, and four images in all in the figure."""
    shown = []
    monkeypatch.setattr("experiments.paper.sis.save_picture_grid", lambda rows, _: shown.extend(rows))
    options = ["--dataset", folders / "images", "--num_images", 3, "--classes", 0]
    succeed(*command(folders, tmp_path, *options, "--images", *2 * [folders / "orange.png"]))
    scores = json.loads((tmp_path / "results.json").read_text())["scores"]
    for side in ("before", "after"):
        parts = [scores[name][side] for name in ("validation", "images")]
        assert [part["pairs"] for part in (*parts, scores["all"][side])] == [3, 2, 5]
        assert scores["all"][side]["found"] == pytest.approx((3 * parts[0]["found"] + 2 * parts[1]["found"]) / 5)
    assert [row[0][0].partition("\n")[0] for row in shown] == 3 * ["validation"] + ["images"]


def test_models_that_see_images_of_other_sizes(folders, tmp_path):
    save_pretrained(tiny_vit(image_size=48), tmp_path / "large")
    make_image_processor("paper", 48).save_pretrained(tmp_path / "large")
    options = ["--images", folders / "orange.png", "--classes", "LABEL_2", 0, "--pixels_per_step", 500]
    out, pair = tmp_path / "out", ["--model", folders / "before", "--compare", tmp_path / "large"]
    succeed("experiments", "sis", *pair, *options, "--output_dir", out)
    for side, size in {"before": 32, "after": 48}.items():
        measured = load_file(out / "images" / side / "00000.safetensors")
        assert measured["subset"].shape[2:] == (size, size) and "foreground" not in measured
        first = measured["margins"][:, 0].sigmoid()  # of two classes of the whole image
        assert first.sum() < 1 and first[0] != first[1]
    assert (out / "sis.png").is_file()


def test_named_classes_need_no_labels(folders, tmp_path):
    """Nor known ones: -1 is that of a test set without."""
    rows = masked_dataset(2).remove_columns("label").add_column("label", [-1, -1])
    rows.to_parquet(tmp_path / "hidden" / "test-00000.parquet")
    options = ["--dataset", tmp_path / "hidden", "--split", "test", "--classes", 0]
    assert "| test, before | 2 |" in succeed(*command(folders, tmp_path / "out", *options))


def test_finished_batches_are_not_computed_again(folders, tmp_path):
    options = ["--dataset", folders / "images", "--num_images", 3, "--batch_size", 1]
    succeed(*command(folders, tmp_path, *options))
    kept = files_below(tmp_path)
    folder = tmp_path / "validation" / "after"
    for name in ("rows.parquet", "00002.safetensors"):  # as a kill in between leaves it
        (folder / name).unlink()
    written = (folder / "00001.safetensors").stat().st_mtime_ns
    succeed(*command(folders, tmp_path, *options))
    assert files_below(tmp_path) == kept and (folder / "00001.safetensors").stat().st_mtime_ns == written
    for option, value in (("threshold", 0.6), ("batch_size", 2)):
        assert f"differ in: {option}" in call(*command(folders, tmp_path, *options, f"--{option}", value)).error
