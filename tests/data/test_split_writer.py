"""Folders of prepared data and masks: what a kill leaves, and reruns over sources that have changed."""

import os
import shutil
import zlib
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard
from pyarrow import parquet

from robust_vit_hf import load_masked_dataset
from robust_vit_hf.data import write_dataset as split_writer
from robust_vit_hf.data import write_dataset as write_rows
from robust_vit_hf.data.contact_sheets import sample_rows
from robust_vit_hf.data.write_dataset import SplitWriter
from robust_vit_hf.hub.upload import repo_type_of

from ..helpers import layouts
from ..helpers.commands import files_below
from ..helpers.layouts import half_masks, masks_by, prepare
from ..helpers.tiny import GOLDFISH, TENCH, masked_dataset, masked_rows


pytestmark = pytest.mark.usefixtures("datasets_cache")
NAMES = datasets.Features({"file_name": datasets.Value("string")})


@pytest.fixture
def no_contact_sheets(monkeypatch):
    """They take most of the time, and are drawn from what is written."""
    monkeypatch.setattr(split_writer, "save_contact_sheets", lambda *arguments: None)


def writer_of(folder: Path, features=NAMES, **options) -> SplitWriter:
    inputs = {"command": "masks", "method": "coco"}
    return SplitWriter(folder, inputs, "train", "names", features, title="Names", text="Text.", **options)


def masks_of(source: Path, output: Path) -> dict:
    return masks_by(half_masks, source, output)


def photos(root: Path, rows: list[dict]) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    layouts.image_folder(root, rows)
    for path in root.rglob("*.png"):
        os.utime(path, (0, zlib.crc32(path.read_bytes())))  # a file that has not changed has its time
    return root


def test_files_rejected_rows_and_card(tmp_path, no_contact_sheets):
    writer = writer_of(tmp_path, rows_per_file=3)
    writer.write([{"file_name": "a"}, {"file_name": "b", "problem": "`b` is torn|cut at 7"}])
    writer.write([{"file_name": "c"}])
    writer.write([{"file_name": name, "problem": f"`{name}` is torn at {name}"} for name in "def"])
    writer.write([{"file_name": "g"}])
    for read in (lambda: load_masked_dataset(str(tmp_path), "train"), lambda: repo_type_of(tmp_path)):
        with pytest.raises(ValueError, match="is not complete"):
            read()
    assert writer.finish() == (3, 4)
    assert datasets.load_dataset(str(tmp_path), split="train")["file_name"] == ["a", "c", "g"]
    assert datasets.load_dataset(str(tmp_path), "rejected", split="train")["file_name"] == list("bdef")
    assert [path.stem[-9:] for path in writer.files] == ["000000003", "000000006", "000000007"]
    card = (tmp_path / "README.md").read_text()
    assert "| train | 3 | 4 |" in card and "| … is torn cut at … | 1 |" in card
    facts = DatasetCard(card).data
    assert facts.license == "unknown" and facts.pretty_name == "Names" and facts.task_categories is None
    before = files_below(tmp_path)
    assert writer_of(tmp_path).finish() == (3, 4) and files_below(tmp_path) == before


def test_a_stop_between_the_rejected_and_the_kept_rows_of_a_file(tmp_path, monkeypatch, no_contact_sheets):
    writer, rows = writer_of(tmp_path, rows_per_file=2), [{"file_name": "c"}, {"file_name": "d", "problem": "torn"}]
    writer.write([{"file_name": "a"}, {"file_name": "b", "problem": "torn"}])
    write = parquet.ParquetWriter

    def full_disk(path, schema):
        if path.parent == tmp_path:
            raise OSError("No space left on device")
        return write(path, schema)

    with monkeypatch.context() as patched, pytest.raises(OSError):
        patched.setattr(parquet, "ParquetWriter", full_disk)
        writer.write(rows)
    assert len(list(tmp_path.glob("rejected/*.parquet"))) == 2
    again = writer_of(tmp_path, rows_per_file=1)
    assert again.position == 2 and len(list(tmp_path.glob("rejected/*.parquet"))) == 1
    again.write(rows)
    assert again.finish() == (2, 2)
    assert datasets.load_dataset(str(tmp_path), split="train")["file_name"] == ["a", "c"]


def test_a_file_of_large_images_ends_early(tmp_path, monkeypatch, no_contact_sheets):
    monkeypatch.setattr(split_writer, "MAX_BYTES", 1000)
    writer = writer_of(tmp_path, datasets.Features({"image": datasets.Image()}))
    writer.write([{"image": {"bytes": bytes(1500), "path": None}}])
    assert writer.position == 1


def test_a_folder_of_other_inputs_is_refused(tmp_path, no_contact_sheets):
    source = str(layouts.class_folders(tmp_path / "set", {TENCH: 1}))
    prepare("imagenet-sketch", [source], tmp_path / "out")
    with pytest.raises(ValueError, match="differ in: set"):
        prepare("imagenet-1k", [source], tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("Mine.")
    with pytest.raises(ValueError, match="holds other files"):
        prepare("imagenet-sketch", [source], tmp_path / "other")


def test_splits_of_a_folder_have_the_same_options(tmp_path, monkeypatch, no_contact_sheets):
    """Training and validation classes of two seeds would overlap. Numbers are no files of the working directory."""
    images = {wnid: [f"{wnid}_{n}" for n in range(3)] for wnid in (TENCH, GOLDFISH, "n01484850", "n01491361")}
    layouts.imagenet_s(tmp_path / "s", {wnid: number for number, wnid in enumerate(images, start=1)}, images)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "3").mkdir()
    given = ("paper-split", [str(tmp_path / "s")], tmp_path / "split")
    prepare(*given, num_classes=3, split="train", class_seed=1)
    with pytest.raises(ValueError, match="differ in: options"):
        prepare(*given, num_classes=3, split="validation", class_seed=2)
    prepare(*given, num_classes=3, split="validation", class_seed=1)
    train, validation = (load_masked_dataset(str(tmp_path / "split"), split) for split in ("train", "validation"))
    assert len({*train["label"]}) == 3 and {*train["label"]}.isdisjoint(validation["label"])
    assert train[0]["mask"].mode == "L"
    card = (tmp_path / "split" / "README.md").read_text()
    assert "| train | 9 | 0 |" in card and "| validation | 1 | 0 |" in card


ROWS = masked_rows(20)
CHANGES = {
    "more rows": ROWS,
    "fewer rows": ROWS[:11],
    "another order": ROWS[10:12] + ROWS[:10],
    "other pixels": ROWS[:7] + masked_rows(1, seed=9) + ROWS[8:12],
    "another label": [*ROWS[:3], ROWS[3] | {"label": 0}, *ROWS[4:12]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_masks_of_a_changed_source(tmp_path, change, no_contact_sheets):
    output = tmp_path / "out"
    assert masks_of(photos(tmp_path / "photos", ROWS[:12]), output) == {"train": (12, 0)}
    before = files_below(output)
    assert str(tmp_path) not in before["made_from.json"].decode()
    path = photos(tmp_path / "photos", CHANGES[change])
    with pytest.raises(ValueError, match="differ in: images of `train`"):
        masks_of(path, output)
    assert files_below(output) == before


def test_masks_of_a_changed_table(tmp_path, no_contact_sheets):
    """Other names of the same labels; or with another number of each class, even if that takes the same rows."""
    path, dataset = tmp_path / "table" / "train.parquet", masked_dataset(3)
    dataset.to_parquet(path)
    masks_by(half_masks, path.parent, tmp_path / "few", per_class=8)
    with pytest.raises(ValueError, match="differ in"):
        masks_by(half_masks, path.parent, tmp_path / "few", per_class=9)
    masks_of(path.parent, tmp_path / "out")
    renamed = dataset.cast_column("label", datasets.Value("int64"))
    renamed.cast_column("label", datasets.ClassLabel(names=list("dcba"))).to_parquet(path)
    with pytest.raises(ValueError, match="differ in"):
        masks_of(path.parent, tmp_path / "out")


def test_interrupted_run_over_a_changed_source(tmp_path, monkeypatch, no_contact_sheets):
    monkeypatch.setattr(write_rows, "ROWS_PER_PART", 2)
    source = layouts.class_folders(tmp_path / "set", {TENCH: 4, GOLDFISH: 4})
    write, calls = SplitWriter.write, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(self, *arguments)

    arguments, options = ("imagenet-sketch", [str(source)], tmp_path / "out"), {"rows_per_shard": 2}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(SplitWriter, "write", interrupted)
        prepare(*arguments, **options)
    before = files_below(tmp_path / "out")
    path = source / TENCH / f"{TENCH}_2.jpg"
    original, stamp = path.read_bytes(), path.stat().st_mtime_ns
    layouts.save(layouts.picture(99), path)
    with pytest.raises(ValueError, match="differ in: images of `test`"):
        prepare(*arguments, **options)
    assert files_below(tmp_path / "out") == before
    path.write_bytes(original)
    os.utime(path, ns=(stamp, stamp))
    assert prepare(*arguments, **options) == {"test": (8, 0)}


def test_contact_sheet_takes_rows_from_all_over(tmp_path):
    layouts.class_folders(tmp_path / "set", {TENCH: 130})
    prepare("imagenet-sketch", [str(tmp_path / "set")], tmp_path / "out", rows_per_shard=70)
    names = [row["file_name"] for row in sample_rows(sorted((tmp_path / "out").glob("*.parquet")), 13)]
    expected = sorted(f"{TENCH}/{TENCH}_{index}.jpg" for index in range(130))
    assert names == [expected[index] for index in range(0, 130, 10)]
    assert (tmp_path / "out" / "contact_sheet_test.png").stat().st_size > 5000
