"""From archives to parquet: the command, what a kill leaves, bad rows and archives, and the description of a set."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from robust_vit_hf import load_masked_dataset
from robust_vit_hf.data import load_image_set
from robust_vit_hf.data.__main__ import main
from robust_vit_hf.data.archives import unpack
from robust_vit_hf.data.prepare import prepare
from robust_vit_hf.data.schema import make_features
from robust_vit_hf.data.shards import ShardWriter, sample_rows

from . import formats
from .conftest import masked_dataset


TENCH, GOLDFISH, TOILET_TISSUE = "n01440764", "n01443537", "n15075141"  # labels 0, 1 and 999


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_prepare_from_an_archive(tmp_path, capsys):
    folder = formats.class_folders(tmp_path / "imagenet-a", {"n01498041": 2, "n01531178": 1})
    archive = formats.tar_of(folder, tmp_path / "imagenet-a.tar")
    output = tmp_path / "sets" / "imagenet-a"
    main(["prepare", "imagenet-a", str(archive), "--output", str(output), "--rows_per_shard", "2"])
    assert "test: 3 rows, 0 rejected" in capsys.readouterr().out
    rows = datasets.load_dataset(str(output), split="test")
    assert dict(rows.features) == dict(make_features())
    assert [(row["label"], row["file_name"].split("/")[-1]) for row in rows] == [
        (6, "n01498041_0.jpg"),
        (6, "n01498041_1.jpg"),
        (11, "n01531178_0.jpg"),
    ]
    for row, path in zip(rows, sorted(folder.glob("*/*.jpg")), strict=True):
        assert row["image"].tobytes() == Image.open(path).tobytes()
    # What is prepared loads under its name as the archive does.
    assert load_image_set("imagenet-a", output)["label"] == rows["label"]
    assert (output / "contact_sheet_test.png").stat().st_size > 5000
    assert not (output / ".parts").exists()


def test_prepared_split_of_the_paper_trains(tmp_path):
    images = {wnid: [f"{wnid}_{n}" for n in range(3)] for wnid in (TENCH, GOLDFISH, "n01484850", "n01491361")}
    ids = {wnid: number for number, wnid in enumerate(images, start=1)}
    formats.imagenet_s(tmp_path / "s", ids, images)
    main(["prepare", "paper-split", str(tmp_path / "s"), "--output", str(tmp_path / "split"), "--num_classes", "3"])
    train = load_masked_dataset(str(tmp_path / "split"), "train")
    validation = load_masked_dataset(str(tmp_path / "split"), "validation")
    assert train["label"] == [0] * 3 + [1] * 3 + [2] * 3 and validation["label"] == [3]
    assert train[0]["mask"].mode == "L"
    card = (tmp_path / "split" / "README.md").read_text()
    assert "| train | 9 | 0 |" in card and "| validation | 1 | 0 |" in card


def broken_set(root: Path) -> Path:
    formats.class_folders(root, {TENCH: 3, GOLDFISH: 1, "n00000001": 2})
    path = root / TENCH / f"{TENCH}_1.jpg"
    path.write_bytes(path.read_bytes()[:300])
    return root


def test_unreadable_image_stops_with_its_path(tmp_path):
    broken_set(tmp_path / "set")
    with pytest.raises(ValueError, match=r"n00000001` is no wnid(.|\n)*--skip_bad leaves such rows out"):
        prepare("imagenet-sketch", [str(tmp_path / "set")], tmp_path / "out")
    for path in (tmp_path / "set" / "n00000001").iterdir():
        path.unlink()
    (tmp_path / "set" / "n00000001").rmdir()
    with pytest.raises(ValueError, match=rf"`.*{TENCH}_1.jpg` cannot be decoded: .*[Tt]runcated"):
        prepare("imagenet-sketch", [str(tmp_path / "set")], tmp_path / "out")


def test_skip_bad_counts_and_lists(tmp_path, capsys):
    broken_set(tmp_path / "set")
    main(["prepare", "imagenet-sketch", str(tmp_path / "set"), "--output", str(tmp_path / "out"), "--skip_bad"])
    assert "test: 3 rows, 2 rejected" in capsys.readouterr().out
    assert datasets.load_dataset(str(tmp_path / "out"), split="test")["label"] == [0, 0, 1]
    rejected = datasets.load_dataset(str(tmp_path / "out"), "rejected", split="test")
    assert [row["file_name"] for row in rejected] == ["n00000001", f"{TENCH}/{TENCH}_1.jpg"]
    assert "is no wnid" in rejected["problem"][0] and "cannot be decoded" in rejected["problem"][1]


def test_folder_of_another_run_is_not_continued(tmp_path):
    formats.class_folders(tmp_path / "set", {TENCH: 1})
    prepare("imagenet-sketch", [str(tmp_path / "set")], tmp_path / "out")
    with pytest.raises(ValueError, match=r"holds the split `test` made with .*imagenet-sketch.*imagenet-r"):
        prepare("imagenet-r", [str(tmp_path / "set")], tmp_path / "out")
    with pytest.raises(ValueError, match="holds other files"):
        prepare("imagenet-sketch", [str(tmp_path / "set")], tmp_path / "set")


def test_kill_loses_no_finished_part(tmp_path):
    """Real kills, then a run to the end: the result is that of a run without any."""
    formats.class_folders(tmp_path / "set", {TENCH: 400, GOLDFISH: 300})
    whole = tmp_path / "whole"
    prepare("imagenet-sketch", [str(tmp_path / "set")], whole, rows_per_shard=150)
    output, kills, positions = tmp_path / "out", 0, []
    command = [sys.executable, "-m", "robust_vit_hf.data", "prepare", "imagenet-sketch", str(tmp_path / "set")]
    command += ["--output", str(output), "--rows_per_shard", "150"]
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = set(output.glob(".parts/test/*.parquet")) | set(output.glob("test-*.parquet"))
        while process.poll() is None:
            if (set(output.glob(".parts/test/*.parquet")) | set(output.glob("test-*.parquet"))) - before:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                break
            time.sleep(0.002)
        kills += process.returncode == -signal.SIGKILL
        for shard in output.glob("test-*.parquet"):
            assert parquet.read_table(shard).num_rows >= 150
        writer = ShardWriter(output, "test", make_features(), read_settings(output), title="", text="")
        positions.append(writer.position)
    assert kills and positions == sorted(positions) and positions[0] >= 32
    written = {path: path.stat().st_mtime_ns for path in output.glob("test-*.parquet")}
    subprocess.run(command, check=True, capture_output=True)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in written.items())  # finished shards stay
    rows, expected = (datasets.load_dataset(str(folder), split="test") for folder in (output, whole))
    assert rows["file_name"] == expected["file_name"] and len(rows) == 700
    assert rows["label"] == expected["label"]
    assert all(a["image"].tobytes() == b["image"].tobytes() for a, b in zip(rows, expected, strict=True))


def read_settings(folder: Path) -> dict:
    return json.loads((folder / "made_by.json").read_text())["test"]


def test_kill_between_shard_and_parts(tmp_path):
    """The moment at which a shard stands beside the parts that it was made of."""
    features = datasets.Features({"file_name": datasets.Value("string")})
    settings = {"title": "names", "text": "text"}
    writer = ShardWriter(tmp_path, "train", features, {}, rows_per_shard=4, **settings)
    writer.write([{"file_name": "a"}, {"file_name": "b", "problem": "torn"}])
    part = tmp_path / ".parts" / "train" / "0-2.parquet"
    saved = part.read_bytes()
    writer.write([{"file_name": "c"}, {"file_name": "d"}])
    assert not part.exists()
    part.write_bytes(saved)
    (tmp_path / "train-000000004-000000008.parquet.partial").write_bytes(b"half")
    again = ShardWriter(tmp_path, "train", features, {}, rows_per_shard=4, **settings)
    assert again.position == 4 and not part.exists()
    again.write([{"file_name": "e"}])
    assert again.finish() == (4, 1)
    assert datasets.load_dataset(str(tmp_path), split="train")["file_name"] == ["a", "c", "d", "e"]
    assert datasets.load_dataset(str(tmp_path), "rejected", split="train")["problem"] == ["torn"]
    assert not list(tmp_path.glob("*.partial"))


# -- Archives ---------------------------------------------------------------------------------------------------------


def member(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, io.BytesIO(content)


@pytest.mark.parametrize("name", ["../outside.jpg", "/tmp/outside.jpg", "a/../../outside.jpg"])
def test_tar_member_that_would_leave_the_folder(tmp_path, name):
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.addfile(*member("good.jpg"))
        tar.addfile(*member(name))
    with pytest.raises(ValueError, match=rf"Member `{re.escape(name)}` of `.*set.tar` would be written outside"):
        unpack(tmp_path / "set.tar", tmp_path / "inside" / "set")
    assert not list(tmp_path.rglob("*.jpg"))


def test_zip_member_that_would_leave_the_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        packed.writestr("good.jpg", "x")
        packed.writestr("../outside.jpg", "x")
    with pytest.raises(ValueError, match=r"Member `../outside.jpg` of `.*set.zip` would be written outside"):
        unpack(tmp_path / "set.zip", tmp_path / "inside" / "set")
    assert not list(tmp_path.rglob("*.jpg"))


def test_tar_link_that_leads_outside(tmp_path):
    link = tarfile.TarInfo("images")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.addfile(link)
    with pytest.raises(ValueError, match="Member `images`"):
        unpack(tmp_path / "set.tar", tmp_path / "set")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.999])
def test_truncated_tar(tmp_path, suffix, kept):
    formats.class_folders(tmp_path / "set", {TENCH: 5})
    archive = formats.tar_of(tmp_path / "set", tmp_path / f"set{suffix}")
    content = archive.read_bytes().rstrip(b"\0")  # without the padding, which can go
    archive.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=rf"`.*set{suffix}` is truncated"):
        load_image_set("imagenet-sketch", archive)


def test_tar_cut_between_two_members(tmp_path):
    """Python reads such a file to its end without an error."""
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.addfile(*member("a.jpg", b"x" * 512))
        tar.addfile(*member("b.jpg", b"x" * 512))
    content = (tmp_path / "set.tar").read_bytes()
    (tmp_path / "set.tar").write_bytes(content[:1024])
    assert tarfile.open(tmp_path / "set.tar").getnames() == ["a.jpg"]
    with pytest.raises(ValueError, match="it has no end-of-archive mark"):
        unpack(tmp_path / "set.tar", tmp_path / "set")


def test_truncated_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        packed.writestr("good.jpg", "x" * 1000)
    content = (tmp_path / "set.zip").read_bytes()
    (tmp_path / "set.zip").write_bytes(content[:-60])
    with pytest.raises(ValueError, match=r"`.*set.zip` is truncated or no archive"):
        unpack(tmp_path / "set.zip", tmp_path / "set")


def test_encrypted_zip(tmp_path):
    """objectnet-1.0.zip has a password. Its flag is all that is needed here."""
    with zipfile.ZipFile(tmp_path / "objectnet-1.0.zip", "w") as packed:
        packed.writestr("objectnet-1.0/README", "x")
    content = bytearray((tmp_path / "objectnet-1.0.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "objectnet-1.0.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"objectnet-1.0.zip` is encrypted. Unpack it with `7z x`"):
        load_image_set("objectnet", tmp_path / "objectnet-1.0.zip")


def test_archive_is_unpacked_once(tmp_path):
    formats.class_folders(tmp_path / "set", {TENCH: 1})
    archive = formats.tar_of(tmp_path / "set", tmp_path / "set.tar.gz")
    first = load_image_set("imagenet-sketch", archive)
    stamp = next(Path(datasets.config.HF_DATASETS_CACHE).rglob(f"{TENCH}_0.jpg")).stat().st_ino
    assert load_image_set("imagenet-sketch", archive)["label"] == first["label"]
    assert next(Path(datasets.config.HF_DATASETS_CACHE).rglob(f"{TENCH}_0.jpg")).stat().st_ino == stamp


# -- Description ------------------------------------------------------------------------------------------------------


def test_describe_masks(tmp_path, capsys):
    dataset = masked_dataset(6)
    empty = {"image": Image.new("RGB", (40, 40)), "mask": Image.new("L", (40, 40)), "label": 3}
    torn = {"image": Image.new("RGB", (40, 40)), "mask": Image.new("L", (20, 40)), "label": 3}
    datasets.Dataset.from_list([*dataset, empty, torn], features=dataset.features).to_parquet(
        tmp_path / "rows.parquet"
    )
    main(["describe", str(tmp_path / "rows.parquet")])
    out = capsys.readouterr().out
    assert "rows: 8, 1 of them unusable" in out and "columns: file_name, image, mask, label" in out
    assert "classes: 4, labels 0–3, 1–3 rows each" in out
    assert re.search(r"empty +1 █+", out) and re.search(r"10–20 +6 █{40}", out)  # 13 × 13 of 40 × 40 is 10.6 %
    assert "row 7: image is 40×40 but mask is 20×40" in out


def test_describe_a_set_of_the_paper(tmp_path, capsys):
    formats.objectnet(tmp_path / "objectnet-1.0")
    main(["describe", str(tmp_path / "objectnet-1.0"), "--set", "objectnet"])
    out = capsys.readouterr().out
    assert "rows: 2, 0 of them unusable" in out and "1 rows accept several labels" in out
    assert "images: 34–34 px wide (median 34), 28–28 px high" in out
    broken_set(tmp_path / "set")
    main(["describe", str(tmp_path / "set"), "--set", "imagenet-sketch"])
    out = capsys.readouterr().out
    assert "rows: 5, 2 of them unusable" in out and "first problems (2 of 2)" in out and "is no wnid" in out


def test_describe_names_the_split_that_there_is(tmp_path, capsys):
    formats.class_folders(tmp_path / "set", {TENCH: 2})
    prepare("imagenet-sketch", [str(tmp_path / "set")], tmp_path / "out")
    main(["describe", str(tmp_path / "out")])
    assert capsys.readouterr().out.startswith("split: test\nrows: 2, 0 of them unusable")


def test_command_line_errors_are_one_line(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "robust_vit_hf.data", "prepare", "imagenet-a", "nowhere", "--output", "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 1 and run.stderr.startswith("error: There is no file or folder `nowhere`")
    assert "Traceback" not in run.stderr


def test_contact_sheet_takes_rows_from_all_over(tmp_path):
    formats.class_folders(tmp_path / "set", {TENCH: 130})
    prepare("imagenet-sketch", [str(tmp_path / "set")], tmp_path / "out", rows_per_shard=70)
    names = [row["file_name"] for row in sample_rows(sorted((tmp_path / "out").glob("*.parquet")), 13)]
    expected = sorted(f"{TENCH}/{TENCH}_{index}.jpg" for index in range(130))
    assert names == [expected[index] for index in range(0, 130, 10)]
    sheet = np.asarray(Image.open(tmp_path / "out" / "contact_sheet_test.png").convert("RGB"))
    assert sheet.std() > 20
