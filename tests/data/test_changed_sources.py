"""Prepared data and masks whose source has changed: a rerun refuses, and names what changed, before it writes anything."""

import json
import os
import re
import shutil
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest

from robust_vit_hf.data import prepare as preparation
from robust_vit_hf.data.parquet_writer import ShardWriter
from robust_vit_hf.masks import make_masks as masks_preparation
from robust_vit_hf.masks.mask_result import MaskResult

from ..helpers import formats
from ..helpers.commands import files_below
from ..helpers.tiny import GOLDFISH, TENCH, masked_dataset, masked_rows
from ..helpers.written import half_mask, masks_by, prepare


pytestmark = pytest.mark.usefixtures("datasets_cache", "no_contact_sheets")


@pytest.fixture
def no_contact_sheets(monkeypatch):
    """They take most of the time, and are drawn from what is written."""
    for module in (preparation, masks_preparation):
        monkeypatch.setattr(module, "save_contact_sheets", lambda *arguments: None)


def masks_of(source: Path, output: Path) -> dict:
    def masker(images, rows):
        return [MaskResult(half_mask(image)) for image in images]

    return masks_by(masker, source, output)


def photos(root: Path, rows: list[dict]) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    formats.image_folder(root, rows)
    for path in root.rglob("*.png"):
        os.utime(path, (0, zlib.crc32(path.read_bytes())))  # a file that has not changed has its time
    return root


ROWS = masked_rows(20)
CHANGES = {
    "more rows": (ROWS, "12 rows were written, the source has 20"),
    "fewer rows": (ROWS[:11], "12 rows were written, the source has 11"),
    "another order": (ROWS[10:12] + ROWS[:10], "row 0, now `0.png`, differs"),
    "other pixels": (ROWS[:7] + masked_rows(1, seed=9) + ROWS[8:12], "row 7, now `7.png`, differs"),
    "another label": ([*ROWS[:3], ROWS[3] | {"label": 0}, *ROWS[4:12]], "row 3, now `3.png`, differs"),
}


@pytest.mark.parametrize("source", ["folder", "parquet"])
@pytest.mark.parametrize("change", CHANGES)
def test_masks_of_a_changed_source(tmp_path, change, source):
    def write(rows):
        if source == "folder":
            return photos(tmp_path / "photos", rows)
        table = datasets.Dataset.from_list([row | {"file_name": f"{n}.png"} for n, row in enumerate(rows)])
        table.cast_column("image", datasets.Image()).to_parquet(tmp_path / "table" / "train.parquet")
        return tmp_path / "table"

    output, (changed, message) = tmp_path / "out", CHANGES[change]
    assert masks_of(write(ROWS[:12]), output) == {"train": (12, 0)}
    before = files_below(output)
    assert str(tmp_path) not in before["made_by.json"].decode()
    assert json.loads(before["made_by.json"])["train"]["source_rows"]["count"] == 12
    path = write(changed)
    with pytest.raises(ValueError, match=f"has changed since it was written: {message}"):
        masks_of(path, output)
    assert files_below(output) == before


def test_unchanged_source_finishes_at_once(tmp_path, monkeypatch):
    source = photos(tmp_path / "photos", ROWS[:5])
    masks_of(source, tmp_path / "out")
    monkeypatch.setattr(preparation, "decode", None)
    assert masks_of(source, tmp_path / "out") == {"train": (5, 0)}


def test_interrupted_run_over_a_changed_source(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "ROWS_PER_PART", 2)
    source = formats.class_folders(tmp_path / "set", {TENCH: 4, GOLDFISH: 4})
    write, calls = ShardWriter.write, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(self, *arguments)

    arguments = ("imagenet-sketch", [str(source)], tmp_path / "out")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ShardWriter, "write", interrupted)
        prepare(*arguments)
    before = files_below(tmp_path / "out")
    path = source / TENCH / f"{TENCH}_2.jpg"
    original, stamp = path.read_bytes(), path.stat().st_mtime_ns
    formats.save(formats.picture(99), path)
    with pytest.raises(ValueError, match=rf"row 2, now `{TENCH}/{TENCH}_2.jpg`, differs"):
        prepare(*arguments)
    assert files_below(tmp_path / "out") == before
    path.write_bytes(original)
    os.utime(path, ns=(stamp, stamp))
    assert prepare(*arguments) == {"test": (8, 0)}


def test_archive_of_another_content(tmp_path):
    for seed, expected in ((0, None), (1, "differs")):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        formats.save(formats.picture(seed), tmp_path / "set" / TENCH / "0.png")
        archive = formats.tar_of(tmp_path / "set", tmp_path / "set.tar")
        if expected is None:
            assert prepare("imagenet-sketch", [str(archive)], tmp_path / "out") == {"test": (1, 0)}
        else:
            with pytest.raises(ValueError, match=expected):
                prepare("imagenet-sketch", [str(archive)], tmp_path / "out")


def test_zip_that_is_unpacked_again_has_not_changed(tmp_path, datasets_cache):
    formats.class_folders(tmp_path / "set", {TENCH: 2})
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "set")
    prepare("imagenet-sketch", [archive], tmp_path / "out")
    shutil.rmtree(datasets_cache)
    assert prepare("imagenet-sketch", [archive], tmp_path / "out") == {"test": (2, 0)}


def test_edited_mask_of_imagenet_s(tmp_path):
    source = formats.imagenet_s(tmp_path / "s", {TENCH: 1}, {TENCH: [f"{TENCH}_0", f"{TENCH}_1"]})
    prepare("imagenet-s919", [str(source)], tmp_path / "out")
    ids = np.zeros((24, 30), dtype=np.int32)
    ids[2:9, 3:20] = 1
    formats.coded_mask(ids).save(source / "train-semi-segmentation" / TENCH / f"{TENCH}_1.png")
    with pytest.raises(ValueError, match=rf"row 1, now `{TENCH}/{TENCH}_1.JPEG`, differs"):
        prepare("imagenet-s919", [str(source)], tmp_path / "out")


def test_other_class_names(tmp_path):
    dataset = masked_dataset(3)
    dataset.to_parquet(tmp_path / "table" / "train.parquet")
    masks_of(tmp_path / "table", tmp_path / "out")
    renamed = datasets.ClassLabel(names=list("dcba"))
    dataset.cast_column("label", datasets.Value("int64")).cast_column("label", renamed).to_parquet(
        tmp_path / "table" / "train.parquet"
    )
    with pytest.raises(ValueError, match="other columns or classes") as refused:
        masks_of(tmp_path / "table", tmp_path / "out")
    assert re.search("Delete the folder, or choose another", str(refused.value))


def test_rejected_rows_are_compared_too(tmp_path):
    """Also those after the last row that was kept, whose shard stands alone."""
    source = formats.class_folders(tmp_path / "set", {TENCH: 2})
    (source / GOLDFISH).mkdir()
    (source / GOLDFISH / "torn.jpg").write_bytes(b"torn")
    arguments = ("imagenet-sketch", [str(source)], tmp_path / "out")
    for _ in range(2):
        assert prepare(*arguments, skip_bad=True, rows_per_shard=2) == {"test": (2, 1)}
    formats.save(formats.picture(5), source / GOLDFISH / "torn.jpg")
    with pytest.raises(ValueError, match=r"torn\.jpg`, differs"):
        prepare(*arguments, skip_bad=True, rows_per_shard=2)
