"""Sources of sets: tars with numberings of their own, the Hub, spoken to over loopback, and sources that look right and are not: other
sets, other splits, changed files, turned images, the junk of archives."""

import io
import os
import shutil

import datasets
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from robust_vit_hf import load_image_set, load_masked_dataset
from robust_vit_hf.data.classes import class_names, wnids
from robust_vit_hf.data.known_sets import KNOWN_SETS
from robust_vit_hf.evaluation.sets import load_evaluation_set
from robust_vit_hf.utils.images import encode_image

from ..helpers import layouts
from ..helpers.layouts import both_ways, labels_and_names, prepare
from ..helpers.tiny import GOLDFISH, STINGRAY, TENCH, TOILET_TISSUE


pytestmark = pytest.mark.usefixtures("datasets_cache")


def names_of(rows) -> list[str]:
    return sorted(row["file_name"] for row in rows)


def test_every_worker_reads_its_share_of_tars_and_parquet(tmp_path):
    rows = [(f"s{index}", layouts.picture(index), index) for index in range(20)]
    layouts.webdataset(tmp_path / "tars", rows)
    layouts.class_folders(tmp_path / "folders", {TENCH: 100, GOLDFISH: 100})
    prepare("imagenet-sketch", [str(tmp_path / "folders")], tmp_path / "prepared", rows_per_shard=64)
    assert "license: mit" in (tmp_path / "prepared" / "README.md").read_text()
    for source, count in (("tars", 20), ("folders", 200), ("prepared", 200)):
        stream = load_image_set("imagenet-sketch", tmp_path / source, streaming=True).select_columns("file_name")
        for num_workers in (0, 1, 2):
            loaded = list(DataLoader(stream, batch_size=None, num_workers=num_workers))
            assert len(loaded) == count and names_of(loaded) == names_of(stream)


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
    with pytest.raises(ValueError, match="for which variant cannot be chosen"):
        load_image_set("imagenet-v2", tmp_path / "wds", variant="top-images")


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


def later(path):
    """Make sure that a file that was just written again shows it."""
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))


@pytest.mark.parametrize(
    "name, file, options",
    [
        ("imagenet-s919", "train-semi-segmentation/**/*.png", {}),
        ("imagenet-9-original", "fg_mask/**/*.npy", {}),
        ("hard-imagenet", "val/*.png", {"imagenet": "."}),
        ("waterbirds", "segmentations/**/*.png", {"segmentations": "segmentations"}),
        ("imagenet-segmentation", "gtsegs_ijcv.mat", {}),
    ],
)
def test_redrawn_masks_are_read_again(tmp_path, monkeypatch, name, file, options):
    monkeypatch.chdir(tmp_path)
    image, mask = np.asarray(layouts.picture(0)), np.zeros((24, 30), np.uint8)
    layouts.imagenet_s(tmp_path, {TENCH: 1}, {TENCH: [f"{TENCH}_1"]})
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
    elif name == "imagenet-s919":
        layouts.coded_mask(np.eye(24, 30, dtype=np.int32)).save(path)
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
    with pytest.raises(ValueError, match="Archives have the same name"):
        prepare("imagenet-sketch", [str(tmp_path / "set.zip"), str(tmp_path / "set.tar")], tmp_path / "out")


WNIDS = [STINGRAY, "n01531178", "n01534433"]  # the first classes of ImageNet-A: labels 6, 11 and 13


def wds(folder, labels, suffix="webp"):
    rows = [(f"s{index:07d}", layouts.picture(index), label) for index, label in enumerate(labels)]
    return layouts.webdataset(folder, rows, suffix)


def test_webdataset_with_local_labels(tmp_path):
    wds(tmp_path / "test", [0, 1, 199, 2, 0])
    rows = both_ways("imagenet-a", tmp_path)
    assert [row["label"] for row in rows] == [6, 11, 988, 13, 6]
    assert [row["file_name"] for row in rows] == [f"s{index:07d}.webp" for index in range(5)]
    # The same numbers are others in ImageNet-R, and are themselves where a set has all classes.
    assert [row["label"] for row in both_ways("imagenet-r", tmp_path)] == [1, 2, 988, 4, 1]
    assert [row["label"] for row in both_ways("imagenet-sketch", tmp_path)] == [0, 1, 199, 2, 0]
    assert rows[0]["image"].size == (30, 24)


@pytest.mark.parametrize("label", [200, -1])  # the second is that of a test set
def test_webdataset_with_a_label_outside_the_numbering(label, tmp_path):
    wds(tmp_path, [0, label])
    with pytest.raises(ValueError, match=f"label {label} is outside the numbering of 200 classes"):
        list(load_image_set("imagenet-a", tmp_path, streaming=True))


def test_webdataset_of_objectnet_needs_the_mappings(tmp_path):
    mappings = str(layouts.objectnet(tmp_path / "objectnet-1.0") / "mappings")
    source = wds(tmp_path / "wds", [0, 1, 0])
    with pytest.raises(ValueError, match="`mappings` of ObjectNet"):
        load_image_set("objectnet", source)
    rows = both_ways("objectnet", source, mappings=mappings)
    assert [row["label"] for row in rows] == [[423, 559, 765], [731], [423, 559, 765]]  # chair, plunger, chair
    file = shutil.copytree(mappings, tmp_path / "others") / "pytorch_to_imagenet_2012_id.json"
    file.write_text(file.read_text().replace("731", "732"))
    assert load_image_set("objectnet", source, mappings=str(file.parent))["label"][1] == [732]
    rows = both_ways("objectnet", source, mappings=mappings, cropped=True)
    assert [row["image"].size for row in rows] == [(26, 20)] * 3


def test_truncated_webdataset_tar(tmp_path):
    tar = wds(tmp_path, [0, 1, 2]) / "1.tar"
    tar.write_bytes(tar.read_bytes()[:1536])
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"`.*1.tar` is truncated: it has no end-of-archive mark"):
            load_image_set("imagenet-a", tmp_path, streaming=streaming)


def add_parquet(hub, name, path, features, image_names, **columns):
    """Put a table with these columns, beside as many images, into a repository. `image_names` are their file names."""
    content = io.BytesIO()
    images = [encode_image(layouts.picture(seed), of, "PNG") for seed, of in enumerate(image_names)]
    layouts.image_table(content, images, features, **columns)
    hub.repos.setdefault(("datasets", name), {})[path] = content.getvalue()


def test_imagenet_a_with_its_own_numbering_under_wnid_names(hub):
    features = {"label": datasets.ClassLabel(names=WNIDS[::-1])}
    path = "data/train-00000-of-00001.parquet"
    add_parquet(hub, "barkermrl/imagenet-a", path, features, label=[0, 2], image_names=["x.jpg", None])
    rows = both_ways("imagenet-a")
    assert labels_and_names(rows) == [(13, "x.jpg"), (6, "0-1")]
    assert [row["image"].tobytes() for row in rows] == [layouts.picture(seed).tobytes() for seed in (0, 1)]
    commit = hub.at("datasets", "barkermrl/imagenet-a", "main").sha
    for source in (None, "barkermrl/imagenet-a"):
        assert load_evaluation_set("imagenet-a", source, "paper").revision == commit


def test_imagenet_a_with_its_own_numbering_beside_file_names(tmp_path):
    """All columns of a prepared set are there, but the labels are not ImageNet's."""
    table_with_file_names(tmp_path, datasets.ClassLabel(names=WNIDS[::-1]), [0, 2])
    assert [row["label"] for row in load_image_set("imagenet-a", tmp_path, streaming=True)] == [13, 6]


def table_with_file_names(folder, label_type, labels, images=None):
    path, names = folder / "test-00000-of-00001.parquet", [f"{number}.jpg" for number in range(len(labels))]
    return layouts.image_table(path, images, {"label": label_type}, label=labels, file_name=names)


@pytest.mark.parametrize("name", ["imagenet-1k", "imagenet-a"])
def test_all_names_of_imagenet_beside_file_names(tmp_path, name):
    names = [f"{english}, also {index}" for index, english in enumerate(class_names())]
    for second, labels in enumerate(([6, 11], [11, 6])):
        path = table_with_file_names(tmp_path, datasets.ClassLabel(names=names), labels)
        os.utime(path, (second, second))
        assert [row["label"] for row in both_ways(name, tmp_path)] == labels
    table_with_file_names(tmp_path, datasets.ClassLabel(names=sorted(names)), [6, 11])
    with pytest.raises(ValueError, match="do not tell the classes"):
        load_image_set(name, tmp_path)


@pytest.mark.parametrize("with_file_names", [False, True])
def test_rows_without_image_or_label(tmp_path, with_file_names):
    (tmp_path / "table").mkdir()
    images = [layouts.picture(0), None, layouts.picture(2), None]
    path = table_with_file_names(
        tmp_path / "table", datasets.ClassLabel(names=list(wnids())), [0, 1, None, None], images
    )
    if not with_file_names:
        datasets.Dataset.from_parquet(str(path)).remove_columns("file_name").to_parquet(path)
    with pytest.raises(ValueError, match=r"`.*1(\.jpg)?` has no image"):
        load_image_set("imagenet-sketch", tmp_path / "table")
    assert prepare("imagenet-sketch", [str(tmp_path / "table")], tmp_path / "out", skip_bad=True) == {"test": (1, 3)}
    problems = datasets.load_dataset(str(tmp_path / "out"), "rejected", split="test")["problem"]
    lacking = [problem.split(" has no ", 1)[1].split(":")[0] for problem in problems]
    assert lacking == ["image", "label", "image and no label"]


def test_pushed_set_is_known_by_its_settings(hub, tmp_path):
    """As in its folder: what was cropped is not cropped again, and other sets and options are refused."""
    layouts.objectnet(tmp_path / "objectnet-1.0")
    prepare("objectnet", [str(tmp_path / "objectnet-1.0")], tmp_path / "cropped", cropped=True)
    hub.add("datasets", "me/objectnet", tmp_path / "cropped")
    assert load_image_set("objectnet", "me/objectnet", cropped=True)[0]["image"].size == (30, 24)
    with pytest.raises(ValueError, match=r"was prepared as `objectnet` with \{'cropped': True\}, not as `imagenet-r`"):
        load_image_set("imagenet-r", "me/objectnet")
    assert load_evaluation_set("objectnet", "me/objectnet", "native").border == 0
    prepare("objectnet", [str(tmp_path / "objectnet-1.0")], tmp_path / "framed")
    hub.add("datasets", "me/framed", tmp_path / "framed")
    assert load_evaluation_set("objectnet", "me/framed", "native").border == 2


TARS = ["timm/imagenet-1k-wds", *(f"clip-benchmark/wds_imagenet{of}" for of in ("1k", "-a", "-r", "_sketch", "v2"))]


@pytest.mark.parametrize("copy", TARS)
def test_tars_of_the_hub(copy, hub, tmp_path):
    files = hub.repos.setdefault(("datasets", copy), {})
    for number, folder in enumerate(("train", "validation" if copy == TARS[0] else "test")):
        files[f"{folder}/0.tar"] = (wds(tmp_path / folder, [number]) / "0.tar").read_bytes()
    (name,) = (name for name, known in KNOWN_SETS.items() if copy in known.hub)
    rows = load_image_set(name, copy, streaming=True)
    assert [row["label"] for row in rows] == [{"imagenet-a": 11, "imagenet-r": 2}.get(name, 1)]


def test_imagenet_v2_from_the_hub(hub, tmp_path):
    """One variant is downloaded, by default the paper's."""
    for variant, label in (("matched-frequency", 3), ("top-images", 5)):
        folder = layouts.class_folders(tmp_path / f"imagenetv2-{variant}-format-val", {str(label): 1})
        archive = layouts.tar_of(folder, tmp_path / f"imagenetv2-{variant}.tar.gz")
        hub.repos.setdefault(("datasets", "vaishaal/ImageNetV2"), {})[archive.name] = archive.read_bytes()
    assert load_image_set("imagenet-v2")["label"] == [3]
    assert load_image_set("imagenet-v2", variant="top-images")["label"] == [5]


def test_pushed_split_and_variant(hub, tmp_path):
    layouts.class_folders(tmp_path / "imagenetv2-top-images-format-val", {"5": 1})
    prepare("imagenet-v2", [str(tmp_path)], tmp_path / "v2", variant="top-images")
    hub.add("datasets", "me/v2", tmp_path / "v2")
    for options in ({}, {"variant": "top-images"}):
        assert load_image_set("imagenet-v2", "me/v2", **options)["label"] == [5]
    layouts.waterbirds(tmp_path, [(0, 0, 2), (1, 1, 2)])
    prepare("waterbirds", [str(tmp_path)], tmp_path / "birds", split="test", segmentations=tmp_path / "segmentations")
    hub.add("datasets", "me/birds", tmp_path / "birds")
    birds = load_image_set("waterbirds", "me/birds", split="test")
    assert birds["group"] == [0, 3] and birds[0]["mask"].mode == "L"
    with pytest.raises(ValueError, match="split: train"):
        load_image_set("waterbirds", "me/birds")


def test_imagenet_r_by_wnid(hub):
    card = b"---\nconfigs:\n- config_name: test\n  data_files:\n  - split: test\n    path: data/test-*\n---\n"
    hub.repos["datasets", "axiong/imagenet-r"] = {"README.md": card}
    features = {"wnid": datasets.Value("string"), "label": datasets.Value("int64")}  # in an unknown numbering
    for wnid, label in ((TOILET_TISSUE, 999), (STINGRAY, 6)):  # of another commit
        columns = {"wnid": [wnid], "label": [3], "image_names": [None]}
        add_parquet(hub, "axiong/imagenet-r", "data/test-00000-of-00001.parquet", features, **columns)
        assert labels_and_names(both_ways("imagenet-r")) == [(label, "0-0")]


def test_imagenet_1k_with_english_names_and_file_names_for_real(hub):
    features = {"label": datasets.ClassLabel(names=[f"class {i}" for i in range(1000)])}
    names = [f"ILSVRC2012_val_{number:08d}_n01751748.JPEG" for number in (1, 2)]
    path = "data/validation-00000-of-00001.parquet"
    add_parquet(hub, "ILSVRC/imagenet-1k", path, features, label=[65, 970], image_names=names)
    expected = [(65, "ILSVRC2012_val_00000001.JPEG"), (970, "ILSVRC2012_val_00000002.JPEG")]
    assert labels_and_names(both_ways("imagenet-1k")) == expected
    assert labels_and_names(both_ways("imagenet-1k", labels="real")) == [([970, 795], "ILSVRC2012_val_00000002.JPEG")]
