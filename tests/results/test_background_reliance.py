"""Reliance on the background: measures over ImageNet-9 and CounterAnimal."""

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from robust_vit_hf import make_image_processor
from robust_vit_hf.data.known_sets import IMAGENET_9_VARIATIONS
from robust_vit_hf.data.layouts.shifted_sets import CLASSES
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.results.set_tables import imagenet_9_measures, object_focus, reliance_tables

from ..helpers import layouts
from ..helpers.commands import succeed
from ..helpers.results import result, run_of
from ..helpers.sessions import evaluate_one
from ..helpers.tiny import IMAGE_SIZE, masked_dataset, save_pretrained, tiny_vit


def test_measures_over_imagenet_9_and_counteranimal():
    (table,) = reliance_tables(
        run_of(
            result("imagenet-1k", before=0.8, after=0.8),
            result("imagenet-9-original", before=0.9, after=0.9),
            result("imagenet-9-mixed_same", before=0.8, after=0.8),
            result("imagenet-9-mixed_rand", before=0.6, after=0.7),
            result("counteranimal-common", before=0.7, after=0.7),
            result("counteranimal-counter", before=0.5, after=0.6),
        )
    )
    assert table.head == ["measure", "before", "after", "change"]
    values = {row[0].split(":")[0] + row[0][-12:]: [cell.split(" ")[0] for cell in row[1:]] for row in table.rows}
    assert list(values.values()) == [
        ["+20.0", "+10.0", "-10.0"],  # 80 − 60 and 80 − 70
        ["77.8", "88.9", "+11.1"],  # 1 − 20 / 90 and 1 − 10 / 90
        ["75.0", "87.5", "+12.5"],  # by top-1 on ImageNet
        ["+20.0", "+10.0", "-10.0"],
    ]
    # The spread of a difference of two sets of 200 images: 1.96 · 100 · √((0.8 · 0.2 + 0.6 · 0.4) / 200) = 8.8
    low, high = (float(end) for end in table.rows[0][1].split("[")[1].rstrip("]").split(", "))
    assert 20 - low == pytest.approx(8.8, abs=0.6) and high - 20 == pytest.approx(8.8, abs=0.6)


def test_object_focus_of_a_model_that_is_never_right():
    found = object_focus(np.array([0.0, 0.0, 0.5]), np.array([0.1, 0.0, 0.1]))
    assert np.isnan(found[:2]).all() and found[2] == pytest.approx(0.8)


def test_one_model_and_no_such_sets():
    sets = [result("counteranimal-common", before=0.7), result("counteranimal-counter", before=0.5)]
    (table,) = reliance_tables(run_of(*sets))
    assert table.head == ["measure", "value"] and table.rows[0][1].startswith("+20.0 [")
    variations = ("original", "mixed_same", "mixed_rand", "only_fg", "no_fg", "only_bg_t")
    names = ["counteranimal-common", "counteranimal-counter", *(f"imagenet-9-{name}" for name in variations)]
    sets = {name: result(name, 40, before=1.0) for name in names}
    for one in sets.values():
        one.classes[:10] = -1  # 30 count
    (table,) = reliance_tables(run_of(*(sets[name] for name in names[:2])))
    assert table.rows[0][1] == "+0.0 [-10.0, +10.0]"  # a difference may be below 0
    assert str(imagenet_9_measures(sets)["before"]["bg_gap"]) == "+0.0 [-10.0, +10.0]"
    assert reliance_tables(run_of(result("imagenet-9-mixed_same", before=0.8))) == []


def test_images_of_imagenet_9_are_seen_whole():
    """The processor of the paper resizes to 37 and crops 32; here a mark at the corner stays."""
    model, pixels = tiny_vit(num_labels=1000), np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    dataset = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(pixels)]}, features=datasets.Features({"image": datasets.Image()})
    )
    processor = make_image_processor("paper", IMAGE_SIZE)
    rows = {"image": [Image.fromarray(pixels)]}
    whole, cropped = (
        EvaluationSet(dataset, [[0]], whole=whole).transform(processor)(rows)["pixel_values"][0]
        for whole in (True, False)
    )
    assert torch.equal(whole, torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1)
    assert whole.shape == cropped.shape and cropped[:, 0, 0].max() < 1
    assert EvaluationSet(dataset, [[0]], whole=True).digest != EvaluationSet(dataset, [[0]]).digest
    assert evaluate_one(model, EvaluationSet(dataset, [list(range(1000))], whole=True))[1].scores["top1"] == 1


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_pretrained(tiny_vit(num_labels=1000), tmp_path_factory.mktemp("models") / "mine", "paper")


@pytest.fixture(scope="module")
def imagenet_9(model, tmp_path_factory):
    """ImageNet-9, and what `evaluate` prints and measures on it, by the name of the family."""
    folder = tmp_path_factory.mktemp("imagenet_9")
    root = layouts.imagenet_9(folder / "bg_challenge", dict.fromkeys(CLASSES, 4), IMAGENET_9_VARIATIONS)
    options = ["--sets", f"imagenet-9={root}", "--protocols", "paper", "--output_dir", folder / "out"]
    printed = succeed("evaluate", "--model", model, *options)
    return root, printed, json.loads((folder / "out" / "results.json").read_text())["protocols"]["paper"]


def test_evaluate_imagenet_9(imagenet_9):
    """A prediction counts if it is any class of the nine's one; all variations are measured."""
    _, printed, measured = imagenet_9
    assert [row["set"] for row in measured["rows"]] == [f"imagenet-9-{name}" for name in IMAGENET_9_VARIATIONS]
    assert measured["class_changes"] == {} and measured["class_groups"] == []  # an image has up to 116 classes
    assert measured["rows"][0]["mean_iou_before"] is not None and measured["rows"][1]["mean_iou_before"] is None
    assert [row[0] for row in measured["reliance"][0]["rows"]] == [
        "ImageNet-9: BG-Gap, `mixed_same` − `mixed_rand`",
        "ImageNet-9: Object Focus, 1 − BG-Gap / `original`",
    ] and "Reliance on the background" in printed  # fmt: skip


def test_unlabelled_images_and_one_class_alone(tmp_path):
    """Neither counts for what is measured by masks, nor breaks it."""
    rows = masked_dataset(6)
    labels = datasets.Dataset.from_dict(
        {"label": [0, None, 0, 0, None, 0]}, features=datasets.Features({"label": rows.features["label"]})
    )
    rows = datasets.concatenate_datasets([rows.remove_columns("label"), labels], axis=1)
    rows.to_parquet(tmp_path / "data" / "validation-00000.parquet")
    model = save_pretrained(tiny_vit(), tmp_path / "model", "paper")
    options = ["--model", model, "--dataset", tmp_path / "data", "--output_dir", tmp_path / "out"]
    printed = succeed("evaluate", *options, "--cut_out", "--sensitivity")
    assert "| validation | before | 4 |" in printed and "| validation | 4 |" in printed


def test_diagnose_beside_imagenet_9(model, imagenet_9, tmp_path):
    """A model of ImageNet on photographs of its own classes, and on ImageNet-9: the same measures, those of the sets."""
    root, _, measured = imagenet_9
    data = masked_dataset(8).cast_column(
        "label", datasets.ClassLabel(names=["n01440764", "n01443537", "n01498041", "n15075141"])
    )
    data.to_parquet(tmp_path / "data" / "validation-00000.parquet")
    options = ["--model", model, "--dataset", tmp_path / "data", "--imagenet_9", root, "--protocol", "paper"]
    printed = succeed("diagnose", *options, "--output_dir", tmp_path / "out")
    lines = (line.rstrip(" |").split(" | ") for line in printed.splitlines() if line.startswith("| "))
    rows = {name[2:]: cells for name, *cells in lines}
    assert rows["measure"] == ["before", "ImageNet-9"]
    top1 = {row["set"]: row["top1_before"] for row in measured["rows"]}
    assert top1["imagenet-9-only_bg_t"] != top1["imagenet-9-only_bg_b"]
    for condition, name in {"mixed_same": "mixed_same", "only_bg": "only_bg_t"}.items():
        assert float(rows[f"top-1 `{condition}`"][1].split()[0]) == pytest.approx(
            100 * top1[f"imagenet-9-{name}"], abs=0.06
        )
    gap = 100 * (top1["imagenet-9-mixed_same"] - top1["imagenet-9-mixed_rand"])
    assert float(rows["BG-Gap: `mixed_same` − `mixed_rand`"][1].split()[0]) == pytest.approx(gap, abs=0.06)
