"""Sources that look right and are not: other sets, other splits, changed files, turned images, the junk of archives."""

import os
import shutil

import datasets
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from robust_vit_hf import load_image_set, load_masked_dataset

from ..helpers import layouts
from ..helpers.tiny import GOLDFISH, TENCH
from ..helpers.written import prepare


pytestmark = pytest.mark.usefixtures("datasets_cache")


def names_of(rows) -> list[str]:
    return sorted(row["file_name"] for row in rows)


def test_every_worker_reads_its_share_of_tars_and_parquet(tmp_path):
    rows = [(f"s{index}", layouts.picture(index), index) for index in range(20)]
    layouts.webdataset(tmp_path / "tars", rows)
    layouts.class_folders(tmp_path / "folders", {TENCH: 100, GOLDFISH: 100})
    prepare("imagenet-sketch", [str(tmp_path / "folders")], tmp_path / "prepared", rows_per_shard=64)
    for source, count in (("tars", 20), ("folders", 200), ("prepared", 200)):
        stream = load_image_set("imagenet-sketch", tmp_path / source, streaming=True).select_columns("file_name")
        for num_workers in (0, 1, 2):
            loaded = list(DataLoader(stream, batch_size=None, num_workers=num_workers))
            assert len(loaded) == count and names_of(loaded) == names_of(stream)


# -- Other sets and splits --------------------------------------------------------------------------------------------


def test_training_images_are_no_validation_images(tmp_path):
    layouts.class_folders(tmp_path / "train", {TENCH: 1})
    for source in (tmp_path, tmp_path / "train"):
        with pytest.raises(ValueError, match="train` holds `training images` of this set"):
            load_image_set("imagenet-1k", source)
    layouts.class_folders(tmp_path / "val", {GOLDFISH: 1})
    assert load_image_set("imagenet-1k", tmp_path)["label"] == [1]


@pytest.mark.parametrize("place", ["test", "val", "validation"])
def test_training_tars_are_left_out(tmp_path, place):
    layouts.webdataset(tmp_path / "train", [("a", layouts.picture(0), 5)])
    with pytest.raises(ValueError, match="found none"):
        load_image_set("imagenet-1k", tmp_path)
    layouts.webdataset(tmp_path / place, [("b", layouts.picture(1), 7)])
    assert load_image_set("imagenet-1k", tmp_path)["label"] == [7]


def test_variant_deep_inside(tmp_path):
    layouts.class_folders(tmp_path / "data" / "imagenetv2-top-images-format-val", {"5": 1})
    with pytest.raises(ValueError, match="holds `top-images` of this set, not `matched-frequency`"):
        load_image_set("imagenet-v2", tmp_path)
    layouts.webdataset(tmp_path / "wds", [("a", layouts.picture(0), 5)])
    with pytest.raises(ValueError, match="which has one variant"):
        load_image_set("imagenet-v2", tmp_path / "wds", variant="top-images")


def test_other_factor_of_si_score(tmp_path):
    layouts.si_score(tmp_path / "rotation", {"koala": 1})
    for source in (tmp_path, tmp_path / "rotation"):
        with pytest.raises(ValueError, match="rotation` holds `rotation` of this set, not `size`"):
            load_image_set("si-score-size", source)


def test_imagenet_s_beside_its_smaller_sets(tmp_path):
    for name, wnid in (("ImageNetS50", GOLDFISH), ("ImageNetS919", TENCH), ("__MACOSX", GOLDFISH)):
        layouts.imagenet_s(tmp_path / name, {wnid: 1}, {wnid: [f"{wnid}_1"]})
    assert load_image_set("imagenet-s919", tmp_path)["label"] == [0]
    (tmp_path / "ImageNetS919").rename(tmp_path / "ImageNetS300")
    with pytest.raises(ValueError, match=r"found .*ImageNetS300.*ImageNetS50"):
        load_image_set("imagenet-s919", tmp_path)


def test_prepared_as_another_set(tmp_path):
    layouts.objectnet(tmp_path / "objectnet")
    prepare("objectnet", [str(tmp_path / "objectnet")], tmp_path / "cropped", cropped=True)
    with pytest.raises(ValueError, match=r"with \{'cropped': True\}, not as `objectnet` with \{'cropped': False\}"):
        load_image_set("objectnet", tmp_path / "cropped", cropped=False)
    prepare("objectnet", [str(tmp_path / "objectnet")], tmp_path / "framed")
    for folder, options, size in (
        ("cropped", {}, (30, 24)),
        ("cropped", {"cropped": True}, (30, 24)),  # not cut twice
        ("framed", {"cropped": False}, (34, 28)),
        ("framed", {"cropped": True}, (30, 24)),
    ):
        rows = load_image_set("objectnet", tmp_path / folder, **options)
        assert {row["image"].size for row in rows} == {size}, (folder, options)


def test_prepared_with_real_labels(tmp_path):
    layouts.save(layouts.picture(0), tmp_path / "val" / TENCH / "ILSVRC2012_val_00000002.JPEG")
    prepare("imagenet-1k", [str(tmp_path)], tmp_path / "out", labels="real")
    for options in ({"labels": "real"}, {}):
        assert load_image_set("imagenet-1k", tmp_path / "out", **options)["label"] == [[970, 795]]
    assert datasets.load_dataset(str(tmp_path / "out"), split="validation")["label"] == [[970, 795]]


# -- Files that change ------------------------------------------------------------------------------------------------


def later(path):
    """Make sure that a file that was just written again shows it."""
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))


def test_redrawn_mask_is_read_again(tmp_path):
    layouts.imagenet_s(tmp_path, {TENCH: 1}, {TENCH: [f"{TENCH}_1"]})
    before = np.asarray(load_image_set("imagenet-s919", tmp_path)[0]["mask"])
    path = tmp_path / "train-semi-segmentation" / TENCH / f"{TENCH}_1.png"
    values = np.zeros((24, 30), dtype=np.int32)
    values[0, 0] = 1
    layouts.coded_mask(values).save(path)
    later(path)
    after = np.asarray(load_image_set("imagenet-s919", tmp_path)[0]["mask"])
    assert (before > 0).sum() == 144 and (after > 0).sum() == 1


@pytest.mark.parametrize(
    "name, file, options",
    [
        ("imagenet-9-original", "fg_mask/**/*.npy", {}),
        ("hard-imagenet", "val/*.png", {"imagenet": "."}),
        ("waterbirds", "segmentations/**/*.png", {"segmentations": "segmentations"}),
        ("imagenet-segmentation", "gtsegs_ijcv.mat", {}),
    ],
)
def test_other_redrawn_masks_are_read_again(tmp_path, monkeypatch, name, file, options):
    monkeypatch.chdir(tmp_path)
    image, mask = np.asarray(layouts.picture(0)), np.zeros((24, 30), np.uint8)
    layouts.imagenet_9(tmp_path, {"00_dog": 1}, ("original",))
    layouts.hard_imagenet(tmp_path, tmp_path, {TENCH: ["ILSVRC2012_val_00000007"]})
    layouts.waterbirds(tmp_path, [(0, 0, 0)])
    layouts.segmentation_mat(tmp_path / "gtsegs_ijcv.mat", [(image, mask)])
    before = load_image_set(name, ".", **options)[0]["mask"].tobytes()
    (path,) = tmp_path.glob(file)
    if path.suffix == ".npy":
        np.save(path, np.load(path) == 0)
    elif path.suffix == ".mat":
        layouts.segmentation_mat(path, [(image, 1 - mask)])
    else:
        Image.open(path).convert("L").point(lambda level: 255 * (level < 128)).save(path)
    later(path)
    assert load_image_set(name, ".", **options)[0]["mask"].tobytes() != before


def test_an_added_image_is_read(tmp_path):
    for count in (1, 2):
        layouts.save(layouts.picture(count), tmp_path / TENCH / f"{count}.jpg")
        later(tmp_path / TENCH)
        assert len(load_image_set("imagenet-sketch", tmp_path)) == count


def test_edited_metadata_are_read_again(tmp_path):
    layouts.si_score(tmp_path, {"koala": 1})
    for streaming in (False, True):
        assert [row["x"] for row in load_image_set("si-score-size", tmp_path, streaming=streaming)] == [0.8]
    path = tmp_path / "metadata.csv"
    path.write_text(path.read_text().replace("8,0.8,", "8,0.25,"))
    later(path)
    for streaming in (False, True):
        assert [row["x"] for row in load_image_set("si-score-size", tmp_path, streaming=streaming)] == [0.25]


# -- Junk, turned and coloured images ---------------------------------------------------------------------------------


def test_junk_of_macos(tmp_path):
    layouts.class_folders(tmp_path / "imagenet-a" / "val", {TENCH: 1, GOLDFISH: 1}, ".JPEG")
    for place in ("imagenet-a/val", f"imagenet-a/val/{TENCH}"):
        for name in ("._x.JPEG", ".DS_Store"):
            (tmp_path / place / name).write_bytes(b"junk")
    shutil.copytree(tmp_path / "imagenet-a", tmp_path / "__MACOSX")
    layouts.save(layouts.picture(3), tmp_path / "imagenet-a" / "val" / "preview.jpg")  # beside the folders of classes
    assert load_image_set("imagenet-1k", tmp_path / "imagenet-a")["label"] == [0, 1]
    assert load_image_set("imagenet-sketch", tmp_path)["label"] == [0, 1]


def test_mask_is_turned_with_its_image(tmp_path):
    """Masks are drawn on the stored pixels: as decoding turns an image by its EXIF, its mask is turned too."""
    names = [f"{TENCH}_{orientation}" for orientation in range(1, 9)]
    layouts.imagenet_s(tmp_path, {TENCH: 1}, {TENCH: names})
    values = np.zeros((24, 30), dtype=np.int32)
    values[2:10, 3:24] = values[10:20, 3:8] = 1  # no two turns of it are alike
    stored = Image.fromarray((values * 255).astype(np.uint8)).convert("RGB")
    for orientation, name in enumerate(names, start=1):
        layouts.save(stored, tmp_path / "train-semi" / TENCH / f"{name}.JPEG", orientation)
        layouts.coded_mask(values).save(tmp_path / "train-semi-segmentation" / TENCH / f"{name}.png")
    prepare("imagenet-s919", [str(tmp_path)], tmp_path / "out")
    for rows in (load_image_set("imagenet-s919", tmp_path), load_masked_dataset(str(tmp_path / "out"), "train")):
        masks = [np.asarray(row["mask"]) for row in rows]
        assert [mask.shape for mask in masks] == [(24, 30)] * 4 + [(30, 24)] * 4
        assert len({mask.tobytes() for mask in masks}) == 8
        for row, mask in zip(rows, masks, strict=True):
            pixels = np.asarray(row["image"])
            assert pixels[mask == 255].min() > 200 and pixels[mask == 0].max() < 60
    for row in rows.cast_column("image", datasets.Image(decode=False)):
        assert row["image"]["bytes"] == (tmp_path / "train-semi" / row["file_name"]).read_bytes()


def test_archives_of_one_name(tmp_path):
    layouts.class_folders(tmp_path / "set", {TENCH: 1})
    shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path, "set")
    layouts.tar_of(tmp_path / "set", tmp_path / "set.tar")
    with pytest.raises(ValueError, match="Archives of one name"):
        prepare("imagenet-sketch", [str(tmp_path / "set.zip"), str(tmp_path / "set.tar")], tmp_path / "out")
