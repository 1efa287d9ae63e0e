"""From archives to parquet: the command, what a kill leaves, bad rows and archives, and the description of a set."""

import io
import os
import re
import shutil
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pytest
from PIL import Image

from robust_vit_hf import load_image_set
from robust_vit_hf.data.layouts.packed import unpacked
from robust_vit_hf.utils.files import cache_of

from ..helpers import layouts
from ..helpers.commands import files_below, kill_when, succeed
from ..helpers.layouts import prepare
from ..helpers.tiny import GOLDFISH, TENCH, masked_dataset


pytestmark = pytest.mark.usefixtures("datasets_cache")


def broken_set(root: Path) -> Path:
    layouts.class_folders(root, {TENCH: 3, GOLDFISH: 1})
    path = root / TENCH / f"{TENCH}_1.jpg"
    path.write_bytes(path.read_bytes()[:300])
    return root


def test_bad_rows_stop_or_are_listed(tmp_path):
    source, output = broken_set(tmp_path / "set"), tmp_path / "out"
    with pytest.raises(ValueError, match=rf"`.*{TENCH}_1.jpg` cannot be decoded: .*[Tt]runcated.* --skip_bad"):
        prepare("imagenet-sketch", [str(source)], tmp_path / "other")
    out = succeed("data", "prepare", "imagenet-sketch", source, "--output_dir", output, "--skip_bad")
    assert "test: 3 kept, 1 rejected" in out
    assert datasets.load_dataset(str(output), split="test")["label"] == [0, 0, 1]
    rejected = datasets.load_dataset(str(output), "rejected", split="test")
    assert rejected["file_name"] == [f"{TENCH}/{TENCH}_1.jpg"] and "cannot be decoded" in rejected["problem"][0]
    assert succeed("data", "describe", output).startswith("split: test\nrows: 3, 0 of them")  # it has no other split


@pytest.mark.slow
def test_kill_loses_no_finished_slice(tmp_path):
    """Two kills, then a run to the end: the result is that of a run without any."""
    source = layouts.class_folders(tmp_path / "set", {TENCH: 400, GOLDFISH: 300})
    prepare("imagenet-sketch", [str(source)], tmp_path / "expected", rows_per_shard=64)
    output, written = tmp_path / "out", {}
    command = ("data", "prepare", "imagenet-sketch", source, "--output_dir", output, "--rows_per_shard", 64)
    for _ in range(2):
        kill_when(lambda: len(list(output.glob("*.parquet"))) > len(written), "-m", "robust_vit_hf.cli", *command)  # noqa: B023
        assert all(path.stat().st_mtime_ns == stamp for path, stamp in written.items())  # finished slices stay
        written = {path: path.stat().st_mtime_ns for path in output.glob("test-*.parquet")}
    assert 2 <= len(written) < 11
    succeed(*command)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in written.items())
    rows, expected = (datasets.load_dataset(str(tmp_path / name), split="test") for name in ("out", "expected"))
    assert rows["file_name"] == expected["file_name"] and len(rows) == 700 and rows["label"] == expected["label"]
    assert all(a["image"].tobytes() == b["image"].tobytes() for a, b in zip(rows, expected, strict=True))


def packed(path: Path, members: dict[str, bytes]) -> Path:
    """Zip or tar of these members. One that begins with `->` is a link."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if content.startswith(b"->"):
                member.size, member.type, member.linkname = 0, tarfile.SYMTYPE, content[2:].decode()
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "archive, members, refused",
    [
        ("set.tar", {"../outside.jpg": b"x"}, True),
        ("set.tar", {"images": b"->../..", "images/outside.jpg": b"x"}, True),
        ("set.tar", {"ROOT/outside.jpg": b"x"}, False),
        ("set.zip", {"../outside.jpg": b"x"}, False),
    ],
)
def test_archive_that_leads_outside(tmp_path, archive, members, refused):
    """Such a tar is refused, and leaves nothing; what a name alone says is mended, and stays inside."""
    members = {name.replace("ROOT", str(tmp_path)): content for name, content in members.items()}
    path = packed(tmp_path / archive, {"good.jpg": b"x"} | members)
    if refused:
        with pytest.raises(ValueError, match=rf"{archive}` .* cannot be unpacked"):
            unpacked([path])
        assert not list(cache_of([path]).iterdir())
    else:
        assert len(files_below(unpacked([path]))) == 2
    assert not [*tmp_path.rglob("outside.jpg")]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".TAR.XZ", ".Zip"])
def test_kinds_of_archives(tmp_path, suffix):
    layouts.class_folders(tmp_path / "set", {TENCH: 1})
    kind = {".tar": "tar", ".TAR.XZ": "xztar", ".tar.bz2": "bztar", ".Zip": "zip"}.get(suffix, "gztar")
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path, "set"))
    archive = archive.rename(tmp_path / f"packed{suffix}")
    (cache_of([archive]) / "packed.partial" / "left").mkdir(parents=True)  # by a kill
    assert load_image_set("imagenet-sketch", archive)["label"] == [0]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
@pytest.mark.parametrize("kept", [0.3, 0.999])
def test_truncated_archive(tmp_path, suffix, kept):
    layouts.class_folders(tmp_path / "set", {TENCH: 5})
    kind = {".tar": "tar", ".tar.gz": "gztar", ".zip": "zip"}[suffix]
    archive = Path(shutil.make_archive(str(tmp_path / "set"), kind, tmp_path, "set"))
    content = archive.read_bytes().rstrip(b"\0")  # without the padding, which can go
    archive.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match="truncated"):
        load_image_set("imagenet-sketch", archive)


def test_tar_cut_between_two_members(tmp_path):
    """Python reads such a file to its end without an error."""
    archive = packed(tmp_path / "set.tar", {"a.jpg": b"x" * 512, "b.jpg": b"x" * 512})
    archive.write_bytes(archive.read_bytes()[:1024])
    assert tarfile.open(archive).getnames() == ["a.jpg"]
    with pytest.raises(ValueError, match="it has no end-of-archive mark"):
        unpacked([archive])


def test_encrypted_zip(tmp_path):
    """objectnet-1.0.zip has a password. Its flag is all that is needed here."""
    archive = packed(tmp_path / "objectnet-1.0.zip", {"objectnet-1.0/README": b"x"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="is encrypted, unpack it with `7z x`"):
        load_image_set("objectnet", archive)


def test_one_of_two_unpacks(tmp_path, datasets_cache, monkeypatch):
    """Both begin at once; neither takes away what the other has unpacked."""
    layouts.class_folders(tmp_path / "set", {TENCH: 40})
    archive = layouts.tar_of(tmp_path / "set", tmp_path / "set.tar")
    both = threading.Barrier(2)

    def known_together(archives) -> Path:
        both.wait(timeout=60)
        return cache_of(archives)

    monkeypatch.setattr("robust_vit_hf.data.layouts.packed.cache_of", known_together)
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(unpacked, [[archive], [archive]])
    assert one == other and len(list(one.rglob("*.jpg"))) == 40
    status = archive.stat()
    archive.write_bytes(archive.read_bytes() + b"\0")
    os.utime(archive, ns=(status.st_atime_ns, status.st_mtime_ns))
    other = cache_of([archive])
    os.utime(archive, ns=(0, 0))
    assert len({one, other, cache_of([archive])}) == 3  # another archive, though of the same time or the same size


def test_describe_masks(tmp_path):
    dataset = masked_dataset(6)
    empty = {"image": Image.new("RGB", (40, 40)), "mask": Image.new("L", (40, 40)), "label": 3}
    torn = empty | {"mask": Image.new("L", (20, 40))}
    full = empty | {"mask": Image.new("L", (40, 40), 255), "label": 2}
    nearly = full | {"mask": full["mask"].copy()}
    nearly["mask"].paste(0, (0, 0, 40, 1))  # 97.5 % are left
    rows = datasets.Dataset.from_list([*dataset, empty, torn, full, nearly], features=dataset.features)
    rows.to_parquet(tmp_path / "rows.parquet")
    out = succeed("data", "describe", tmp_path / "rows.parquet")
    assert "rows: 10, 1 of them unusable" in out and "columns: file_name, image, mask, label" in out
    assert "classes: 4, labels 0–3, rows of a class 1–4 (median" in out
    assert re.search(r"empty +1 █+", out) and re.search(r"10–20 +6 █{40}", out)  # 13 × 13 of 40 × 40 is 10.6 %
    assert re.search(r"90–100 +1 █", out) and re.search(r"full +1 █", out)
    assert "row 7: image is 40×40 but mask is 20×40" in out


def test_describe_a_set_of_the_paper(tmp_path):
    layouts.objectnet(tmp_path / "objectnet-1.0")
    out = succeed("data", "describe", tmp_path / "objectnet-1.0", "--set", "objectnet")
    assert "rows: 2, 0 of them unusable" in out and "rows that accept several labels: 1" in out
    assert "images: 34–34 px wide (median 34), 28–28 px high" in out
    source = broken_set(tmp_path / "set")
    out = succeed("data", "describe", source, "--set", "imagenet-sketch")
    assert "rows: 4, 1 of them unusable" in out and "first problems (1 of 1)" in out and "cannot be decoded" in out
