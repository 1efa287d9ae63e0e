"""Tables of a set beyond top-1: reliance on the background, groups, and objects cut out."""

import json
import re
from unittest.mock import patch

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from robust_vit_hf import make_image_processor
from robust_vit_hf.data.known_sets import IMAGENET_9_VARIATIONS
from robust_vit_hf.data.layouts.official import CLASSES
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.results import tables

from ..helpers import layouts
from ..helpers.commands import succeed
from ..helpers.experiment import result
from ..helpers.sessions import evaluate_one
from ..helpers.tiny import IMAGE_SIZE, masked_dataset, save_pretrained, tiny_vit


def sets_of(*results):
    return {one.name: one for one in results}


def test_measures_over_imagenet_9_and_counteranimal():
    (table,) = tables.reliance_tables(
        sets_of(
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


def test_one_model_and_no_such_sets():
    sets = [result("counteranimal-common", before=0.7), result("counteranimal-counter", before=0.5)]
    (table,) = tables.reliance_tables(sets_of(*sets))
    assert table.head == ["measure", "value"] and table.rows[0][1].startswith("+20.0 [")
    sets = {name: result(name, 40, before=1.0) for name in ("counteranimal-common", "counteranimal-counter")}
    for one in sets.values():
        one.classes[:10] = -1  # 30 count
    (table,) = tables.reliance_tables(sets)
    assert table.rows[0][1] == "+0.0 [-10.0, +10.0]"  # a difference may be below 0
    assert tables.reliance_tables(sets_of(result("imagenet-9-mixed_same", before=0.8))) == []


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


def test_the_worst_group_and_the_weighted_average():
    groups = np.repeat(np.array(["a", "b"], dtype=object), 100)
    birds = result("test", groups=groups, weights={"a": 3.0, "b": 1.0}, before=0.5, after=0.75)
    (table,) = tables.group_tables(sets_of(birds))
    cells = {row[0]: [cell.split(" ")[0] for cell in row[1:]] for row in table.rows}
    assert cells == {
        "a": ["100", "100.0", "100.0", "+0.0"],
        "b": ["100", "0.0", "50.0", "+50.0"],
        "worst group": ["–", "0.0", "50.0", "+50.0"],
        "average, weighted by the training groups": ["200", "75.0", "87.5", "+12.5"],
    }
    (table,) = tables.group_tables(sets_of(result("test", groups=groups, weights={"a": 1.0}, before=0.5)))
    assert table.rows[-1][0] == "average over the groups" and table.rows[-1][2].startswith("50.0")
    (table,) = tables.group_tables(sets_of(result("test", groups=np.tile(groups[::100], 100), before=0.5)))
    ends = {row[0]: float(row[2].split()[-1].rstrip("]")) for row in table.rows}
    assert ends["worst group"] < min(ends["a"], ends["b"]) - 1  # the lower of two varies less than each


def test_many_groups():
    """More than 100 have no rows of their own; their number, the worst and the average are those that few groups would have."""
    few = np.repeat(np.array(["a", "b", "c"], dtype=object), [60, 60, 80])
    (expected,) = tables.group_tables(sets_of(result("test", groups=few, before=0.5, after=0.75)))
    names = np.arange(6000) // 200
    many = np.array([f"{name}" for name in names] + [f"right {index}" for index in range(4000)], dtype=object)
    groups = result("test", 10_000, groups=many, weights=dict.fromkeys(many, 1.0), before=0.5, after=0.75)
    groups.sides["before"].ranks[:] = np.arange(10_000) % 2 * (np.arange(10_000) < 6000)
    groups.sides["after"].ranks[:] = 0
    (table,) = tables.group_tables(sets_of(groups))
    assert [row[:2] for row in table.rows] == [
        ["worst of 4,030 groups", "–"],
        ["average, weighted by the training groups", "10000"],
    ]
    assert table.rows[0][2].startswith("50.0 [") and table.rows[0][3] == "100.0 [0.0, 100.0]"
    assert table.rows[1][3] == "100.0 [100.0, 100.0]" and len(table.head) == len(table.rows[0])
    assert [row[0] for row in expected.rows] == ["a", "b", "c", "worst group", "average over the groups"]
    with patch.object(tables, "MANY_GROUPS", 2):
        (within,) = tables.group_tables(sets_of(result("test", groups=few, before=0.5, after=0.75)))
    assert [row[2:] for row in within.rows] == [row[2:] for row in expected.rows[-2:]]


@pytest.mark.parametrize(
    "groups",
    [np.repeat(range(40), 2), np.concatenate([np.repeat(range(6), 20), range(6, 36)])],
    ids=["pairs", "singles"],
)
def test_groups_that_a_draw_of_all_images_would_miss(groups):
    """Of a few images each, or of one: every draw has all groups, so that the mean is in its interval."""
    small = result("test", len(groups), groups=groups.astype(str).astype(object), before=1.0)
    small.sides["before"].ranks[::4] = 5
    (table,) = tables.group_tables(sets_of(small))
    for row in table.rows:
        mean, low, high = (float(end) for end in re.split(r"[^-+\w.]+", row[2].rstrip("]")))
        assert low <= mean <= high, row


def birds(groups):
    dataset = masked_dataset(len(groups))
    return dataset.add_column("group", groups)


def test_groups_of_a_diagnosis(tmp_path):
    birds(list("xxxy")).to_parquet(tmp_path / "data" / "train-00000.parquet")
    birds(list("xyxyyxxy")).to_parquet(tmp_path / "data" / "validation-00000.parquet")
    model = save_pretrained(tiny_vit(2), tmp_path / "model", "paper")  # right on other images with other backgrounds
    options = ["--model", model, "--dataset", tmp_path / "data", "--output_dir"]
    printed = [succeed(command, *options, tmp_path / command) for command in ("diagnose", "evaluate")]
    diagnosed, evaluated = (text[text.index("Groups of `validation`") :].split("\n\n")[:2] for text in printed)
    assert diagnosed == evaluated and "| average, weighted by the training groups | 8 |" in diagnosed[1]
    assert "Groups of `validation`" in (tmp_path / "diagnose" / "tables.md").read_text()
