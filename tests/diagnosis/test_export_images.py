"""All images of a diagnosis one by one: `images.csv`, and the folder for FiftyOne."""

import csv
import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from transformers import pipeline

from robust_vit_hf.diagnosis.report import image_table
from robust_vit_hf.diagnosis.verdict import Diagnosis

from ..helpers.commands import succeed
from ..helpers.tiny import LETTERS, masked_dataset, save_pretrained, tiny_vit
from .test_diagnosis import NAMES, diagnosis


HIDDEN = (0, 5)  # images that must not be shown
LARGE = (150, 90)  # size of the last one, and in the folder, where the longest side is of 100 pixels


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """Folder of a diagnosis of two models of four classes, on oblong photographs, with the first model beside it."""
    root = tmp_path_factory.mktemp("exported")
    sizes = [(60, 40)] * 15 + [LARGE]
    rows = masked_dataset(16).map(
        lambda row, number: {name: row[name].resize(sizes[number]) for name in ("image", "mask")}, with_indices=True
    )
    rows = rows.add_column("file_name", [f"{row}.jpg" for row in range(16)])
    rows = rows.add_column("openly_licensed", [row not in HIDDEN for row in range(16)])
    (root / "photographs").mkdir()
    rows.to_parquet(root / "photographs" / "validation-00000.parquet")
    for name, seed in (("before", 0), ("after", 1)):
        save_pretrained(tiny_vit(seed, **LETTERS), root / name, "paper")
    models = ["--model", root / "before", "--compare", root / "after", "--export", "fiftyone"]
    with patch("robust_vit_hf.diagnosis.report.LONGEST_SIDE", 100):
        for _ in range(2):  # the second takes the place of the first
            succeed("diagnose", *models, "--dataset", root / "photographs", "--output_dir", root / "out")
    return root / "out"


def test_csv_without_donors_maps_and_names():
    missing = np.array([0, -1, -1])
    columns = dict.fromkeys(("donor_same", "donor_rand", "donor_class", "mixed_rand"), missing)
    columns = diagnosis(3).columns | columns | {"relevance_on_object": np.full(3, np.nan)}
    lines = image_table({"before": Diagnosis(columns, NAMES)}).to_csv(index=False).splitlines()
    first, second, _ = csv.DictReader(lines)
    names = ("image", "label", "donor_same", "donor_rand", "donor_class", "before_original", "before_mixed_rand")
    assert [first[name] for name in names] == ["0", "cat", "0", "0", "cat", "cat", "cat"]
    assert [second[name] for name in names] == ["1", "dog", "", "", "", "dog", ""]
    assert first["before_relevance_on_object"] == "" and first["object_share"] == "0.1"


def test_fiftyone(exported):
    """As `LegacyFiftyOneDatasetImporter` of FiftyOne 1.22 reads it."""
    folder, table = exported / "fiftyone", pd.read_csv(exported / "images.csv")
    metadata = json.loads((folder / "metadata.json").read_text())
    assert "version" not in metadata and metadata["media_type"] == "image"
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    explain = {side: pipeline("relevance-map", model=str(exported.parent / side)) for side in ("before", "after")}
    for sample, row in zip(samples, table.drop([*HIDDEN]).to_dict("records"), strict=True):
        assert sample["image"] == row["image"] and sample["donor_rand"] == row["donor_rand"]
        for name in ("label", "donor_class", "before_mixed_rand", "after_only_bg"):
            assert sample[name] == {"_cls": "Classification", "label": row[name]}
        assert sample["object_share"] == pytest.approx(row["object_share"])
        with (
            Image.open(folder / sample["filepath"]) as picture,
            Image.open(folder / sample["mask"]["mask_path"]) as mask,
        ):
            size = (100, 60) if row["image"] == "15.jpg" else (60, 40)
            assert picture.size == mask.size == size and {*np.unique(mask)} == {0, 255}
            for side, pipe in explain.items():
                found = sample[f"{side}_relevance"]
                assert found["_cls"] == "Heatmap" and found["map_path"].startswith(f"fields/{side}_relevance/")
                with Image.open(folder / found["map_path"]) as heatmap:
                    assert heatmap.size == size
                    expected = np.asarray(pipe(picture.convert("RGB"))["relevance"], float)
                    if size == (60, 40):  # the map of the large one is of all of its pixels
                        np.testing.assert_allclose(np.asarray(heatmap, float), expected, atol=1)
