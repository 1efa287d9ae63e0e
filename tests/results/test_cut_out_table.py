"""Objects alone, cut out by their masks."""

import json

import pytest

from robust_vit_hf.results.set_tables import cut_out_table

from ..helpers.commands import succeed
from ..helpers.tiny import masked_folder, save_pretrained, tiny_vit


def test_evaluate_objects_alone(tmp_path):
    """As the conditions `original` and `only_fg` of the diagnosis."""
    data = masked_folder(tmp_path / "data", train=4, validation=8)
    model = save_pretrained(tiny_vit(), tmp_path / "model", "paper")
    options = ["--model", model, "--dataset", data]
    printed = succeed("evaluate", *options, "--cut_out", "--output_dir", tmp_path / "out")
    (row,) = (line.split(" | ") for line in printed.splitlines() if line.startswith("| validation | before |"))
    succeed("diagnose", *options, "--num_images", 8, "--output_dir", tmp_path / "diagnosis")
    diagnosed = json.loads((tmp_path / "diagnosis" / "results.json").read_text())["diagnosis"]["before"]["measures"]
    assert [float(cell.split()[0]) for cell in row[3:5]] == [
        pytest.approx(100 * diagnosed[name]["mean"], abs=0.06) for name in ("original", "only_fg")
    ]


def test_the_table_of_objects_alone():
    columns = {"accepted": [[0]] * 40, "original": [0] * 30 + [1] * 10, "only_fg": [0] * 10 + [1] * 30}
    columns["object_share"] = [0.5] * 20 + [1.0] * 20  # the last objects fill the crop
    none = columns | {"object_share": [0.0] * 20 + [1.0] * 20}
    row, of_none = cut_out_table({"photos": {"before": columns}, "none": {"before": none}}).rows
    assert of_none == ["none", "before", "0", "–", "–", "–"]
    assert row[:3] == ["photos", "before", "20"] and [cell.split()[0] for cell in row[3:]] == [
        "100.0",
        "50.0",
        "-50.0",
    ]
