"""ImageNet-1k validation, -A, -R, -Sketch and -V2 from their official layouts, and the traps in them."""

import tarfile

import pytest

from robust_vit_hf import load_image_set
from robust_vit_hf.data.classes import class_names, label_of_wnid, subset, wnids
from robust_vit_hf.data.image_sets import open_source

from ..helpers import layouts
from ..helpers.layouts import both_ways, labels_and_names
from ..helpers.tiny import GOLDFISH, STINGRAY, TENCH, TOILET_TISSUE


pytestmark = pytest.mark.usefixtures("datasets_cache")


def test_class_lists():
    assert len(wnids()) == 1000 and list(wnids()) == sorted(wnids())
    assert label_of_wnid()[TENCH] == 0 and label_of_wnid()[TOILET_TISSUE] == 999
    assert len(subset("imagenet-a")) == len(subset("imagenet-r")) == 200
    assert subset("imagenet-a")[0] == 6 == label_of_wnid()[STINGRAY]
    assert class_names()[0] == "tench"


@pytest.mark.parametrize("suffix", [".JPEG", ".jpg", ".png", ".webp", ".bmp"])
def test_validation_in_wnid_folders(tmp_path, suffix):
    root = layouts.class_folders(tmp_path / "val", {TENCH: 2, TOILET_TISSUE: 1}, suffix)
    expected = [
        (0, f"{TENCH}/{TENCH}_0{suffix}"),
        (0, f"{TENCH}/{TENCH}_1{suffix}"),
        (999, f"{TOILET_TISSUE}/{TOILET_TISSUE}_0{suffix}"),
    ]
    for source in (tmp_path, root):
        assert labels_and_names(both_ways("imagenet-1k", source)) == expected


@pytest.mark.parametrize(
    "folder, given",
    [
        *((name, ".") for name in ("val", "validation", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val")),
        *((name, ".") for name in ("ILSVRC2012_img_val", ".")),
        ("ILSVRC/Data/CLS-LOC/val", "ILSVRC/Data/CLS-LOC"),
    ],
)
def test_flat_validation_with_kaggle_solution(tmp_path, folder, given):
    layouts.flat_validation(tmp_path / folder, 3)
    layouts.kaggle_solution(tmp_path / "LOC_val_solution.csv", [TOILET_TISSUE, TENCH, GOLDFISH])
    assert [row["label"] for row in both_ways("imagenet-1k", tmp_path / given)] == [999, 0, 1]


@pytest.mark.parametrize("folder", ["ILSVRC2012_devkit_t12", "."])
def test_flat_validation_with_devkit_whose_ids_are_no_labels(tmp_path, folder):
    layouts.flat_validation(tmp_path / "val", 3)
    ids = {TOILET_TISSUE: 1, GOLDFISH: 2, TENCH: 449}
    layouts.devkit(tmp_path / folder, ids, [TENCH, TOILET_TISSUE, GOLDFISH])
    assert [row["label"] for row in both_ways("imagenet-1k", tmp_path)] == [0, 999, 1]


def test_flat_validation_without_ground_truth(tmp_path):
    layouts.flat_validation(tmp_path / "val", 3)
    with pytest.raises(ValueError, match=r"neither folders of wnids nor labels.*LOC_val_solution.csv.*devkit"):
        load_image_set("imagenet-1k", tmp_path)
    layouts.kaggle_solution(tmp_path / "LOC_val_solution.csv", [TENCH, TENCH])
    with pytest.raises(ValueError, match=r"ILSVRC2012_val_00000003.JPEG`: the ground truth has no such image"):
        load_image_set("imagenet-1k", tmp_path)


def test_raw_archives_of_imagenet(tmp_path):
    layouts.flat_validation(tmp_path / "images", 2)
    with_images = tmp_path / "ILSVRC2012_img_val.tar"
    with tarfile.open(with_images, "w") as tar:  # the official tar has no folder around the images
        for path in sorted((tmp_path / "images").iterdir(), reverse=True):
            tar.add(path, path.name)
    kit = layouts.devkit(tmp_path / "ILSVRC2012_devkit_t12", {TENCH: 7, GOLDFISH: 5}, [GOLDFISH, TENCH])
    packed = layouts.tar_of(kit, tmp_path / "ILSVRC2012_devkit_t12.tar.gz")
    source = open_source("imagenet-1k", [with_images, packed], {})
    assert [row["label"] for row in source.rows(source.shards)] == [1, 0]


def test_real_labels_go_by_file_name_and_leave_out_images_without(tmp_path):
    # Image 1 has none, image 2 has two, image 3 has two, as timm's list says.
    for number in (1, 2, 3):
        layouts.save(layouts.picture(number), tmp_path / "val" / TENCH / f"ILSVRC2012_val_{number:08d}.JPEG")
    assert labels_and_names(both_ways("imagenet-1k", tmp_path, labels="real")) == [
        ([970, 795], f"{TENCH}/ILSVRC2012_val_00000002.JPEG"),
        ([230, 231], f"{TENCH}/ILSVRC2012_val_00000003.JPEG"),
    ]


@pytest.mark.parametrize("name", [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (0, 50_001)] + ["a.JPEG"])
def test_an_image_that_real_labels_do_not_have_is_refused(name, tmp_path):
    layouts.save(layouts.picture(0), tmp_path / "val" / TENCH / name)
    with pytest.raises(ValueError, match=f"`{TENCH}/{name}`: ReaL labels go by names"):
        load_image_set("imagenet-1k", tmp_path, labels="real")


@pytest.mark.parametrize(
    "name, folders",
    [
        ("imagenet-a", [STINGRAY, TENCH]),  # a class of ImageNet, and not of the set
        ("imagenet-sketch", [TENCH, "n00000001"]),
        ("imagenet-v2", ["3", "1000"]),
        ("si-score-size", ["koala", "crane"]),
    ],
)
def test_a_folder_of_no_class_of_the_set_is_refused(name, folders, tmp_path):
    layouts.class_folders(tmp_path, dict.fromkeys(folders, 1))
    for streaming in (False, True):
        with pytest.raises(ValueError, match=rf"{folders[1]}` is named after no class of this set"):
            list(load_image_set(name, tmp_path, streaming=streaming))


def test_imagenet_v2_folders_sort_as_strings(tmp_path):
    root = tmp_path / "imagenetv2-matched-frequency-format-val"
    layouts.class_folders(root, {"0": 1, "10": 1, "2": 1, "999": 1})
    assert labels_and_names(both_ways("imagenet-v2", tmp_path)) == [
        (int(label), f"{label}/{label}_0.jpg") for label in ("0", "2", "10", "999")
    ]


def test_imagenet_v2_variants_are_not_mixed_up(tmp_path):
    layouts.class_folders(tmp_path / "imagenetv2-matched-frequency-format-val", {"0": 1})
    layouts.class_folders(tmp_path / "imagenetv2-threshold0.7-format-val", {"7": 1})
    assert [row["label"] for row in both_ways("imagenet-v2", tmp_path)] == [0]
    assert [row["label"] for row in both_ways("imagenet-v2", tmp_path, variant="threshold0.7")] == [7]
    with pytest.raises(ValueError, match=r"found several, in .*matched-frequency.*threshold0.7"):
        load_image_set("imagenet-v2", tmp_path, variant="top-images")


@pytest.mark.parametrize(
    "name, source, options, message",
    [
        ("imagenet-a", ".", {"variant": "top-images"}, "`imagenet-a` takes no option"),
        ("hard-imagenet", ".", {"split": "test"}, "has the splits validation, train; got split=test"),
    ],
)
def test_unknown_set_option_and_folder(name, source, options, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_image_set(name, tmp_path / source, **options)
