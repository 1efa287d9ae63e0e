"""ImageNet-1k validation, -A, -R, -Sketch and -V2, and sets of masks, ImageNet-Segmentation, ImageNet-S919 and the paper's split, from
their official layouts, and the traps in them."""

import tarfile

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from robust_vit_hf import load_image_set
from robust_vit_hf.data.classes import class_names, label_of_wnid, subset, wnids
from robust_vit_hf.data.image_sets import open_source
from robust_vit_hf.data.layouts.official import MERGED
from robust_vit_hf.data.schema import check_columns, check_rows

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
    with pytest.raises(ValueError, match=r"ILSVRC2012_val_00000003.JPEG` has no label"):
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
    assert [row["label"] for row in source] == [1, 0]


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
    with pytest.raises(ValueError, match=f"`{TENCH}/{name}`: ReaL labels need the file names"):
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
        with pytest.raises(ValueError, match=rf"{folders[1]}` is not named after a class of this set"):
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


PAPER_TOWEL = "n03887697"  # label 700, merged into toilet tissue


def mat_examples(count: int) -> list:
    """Images and masks that are neither square nor symmetric, each of another size."""
    rng = np.random.default_rng(0)
    examples = []
    for index in range(count):
        mask = np.zeros((20 + index, 31), dtype=np.uint8)
        mask[2:9, 4 : 20 + index] = 1
        examples.append((rng.integers(0, 256, (20 + index, 31, 3), dtype=np.uint8), mask))
    return examples


@pytest.mark.parametrize("streaming", [False, True])
def test_segmentation_cells_and_transposed_axes(tmp_path, streaming):
    examples = mat_examples(3)
    path = layouts.segmentation_mat(tmp_path / "gtsegs_ijcv.mat", examples)
    for source in (path, tmp_path):
        rows = list(load_image_set("imagenet-segmentation", source, streaming=streaming))
        for index, (row, (image, mask)) in enumerate(zip(rows, examples, strict=True)):
            assert np.array_equal(np.asarray(row["image"]), image)
            assert row["mask"].mode == "L" and np.array_equal(np.asarray(row["mask"]), 255 * mask)
            assert row["file_name"] == f"gtsegs_ijcv.mat/{index}"


def test_segmentation_is_opened_in_each_worker(tmp_path):
    layouts.segmentation_mat(tmp_path / "gtsegs_ijcv.mat", mat_examples(205))
    stream = load_image_set("imagenet-segmentation", tmp_path, streaming=True).select_columns("file_name")
    loader = DataLoader(stream, batch_size=None, num_workers=2)
    assert len({row["file_name"] for row in loader}) == 205


def test_imagenet_s_codes_ids_in_red_and_green_and_ignores_1000(tmp_path):
    # 919 = 151 + 3 · 256 needs both channels, and so does 1000.
    layouts.imagenet_s(
        tmp_path, {TENCH: 1, TOILET_TISSUE: 919}, {TENCH: [f"{TENCH}_1"], TOILET_TISSUE: [f"{TOILET_TISSUE}_7"]}
    )
    for streaming in (False, True):
        rows = list(load_image_set("imagenet-s919", tmp_path, streaming=streaming))
        assert [row["label"] for row in rows] == [0, 999]
        for row in rows:
            expected = np.zeros((24, 30), dtype=np.uint8)
            expected[6:18, 8:20] = 255
            assert row["mask"].mode == "L" and np.array_equal(np.asarray(row["mask"]), expected)
    dataset = load_image_set("imagenet-s919", tmp_path)
    check_columns(dataset, "train")
    assert len(check_rows(dataset, "train", num_labels=1000)[0]) == 2


def test_imagenet_s_merged_folder_takes_labels_from_file_names(tmp_path):
    names = {TOILET_TISSUE: [f"{PAPER_TOWEL}_5", f"{TOILET_TISSUE}_5"]}
    layouts.imagenet_s(tmp_path, {TOILET_TISSUE: 919}, names)
    rows = list(load_image_set("imagenet-s919", tmp_path))
    assert [(row["label"], row["file_name"]) for row in rows] == [
        (700, f"{TOILET_TISSUE}/{PAPER_TOWEL}_5.JPEG"),
        (999, f"{TOILET_TISSUE}/{TOILET_TISSUE}_5.JPEG"),
    ]


@pytest.mark.parametrize("place", ["train", "ILSVRC/Data/CLS-LOC/train", "."])
def test_imagenet_s_takes_images_from_imagenet(tmp_path, place):
    names = {TOILET_TISSUE: [f"{PAPER_TOWEL}_5"]}
    layouts.imagenet_s(tmp_path / "s", {TOILET_TISSUE: 919}, names, with_images=False)
    with pytest.raises(ValueError, match=rf"{PAPER_TOWEL}_5.JPEG`, the image of .* is missing: .*--imagenet"):
        load_image_set("imagenet-s919", tmp_path / "s")
    image = layouts.picture(5)
    layouts.save(image, tmp_path / "imagenet" / place / PAPER_TOWEL / f"{PAPER_TOWEL}_5.JPEG")
    rows = list(load_image_set("imagenet-s919", tmp_path / "s", imagenet=str(tmp_path / "imagenet")))
    assert [row["label"] for row in rows] == [700] and rows[0]["image"].size == image.size


@pytest.mark.parametrize(
    "ids, message",
    [([7, 8], r"it has the classes \[7, 8\], expected one"), ([1000], r"it has the classes \[\], expected one")],
)
def test_imagenet_s_masks_with_several_classes_or_none(tmp_path, ids, message):
    layouts.imagenet_s(tmp_path, {TENCH: 1}, {TENCH: [f"{TENCH}_1"]})
    values = np.zeros((24, 30), dtype=np.int32)
    values[3:6, : len(ids)] = ids
    layouts.coded_mask(values).save(tmp_path / "train-semi-segmentation" / TENCH / f"{TENCH}_1.png")
    with pytest.raises(ValueError, match=rf"{TENCH}_1.png` cannot be read as a mask: {message}"):
        load_image_set("imagenet-s919", tmp_path)


@pytest.fixture(scope="module")
def all_classes(tmp_path_factory):
    """ImageNet-S919 as it is, 919 folders in sorted order, with images of 1 pixel and 2 masks a class."""
    root = tmp_path_factory.mktemp("imagenet-s")
    excluded = set(MERGED) | set(wnids()[:76])  # 1000 − 5 merged − 76 others = 919
    folders = [wnid for wnid in wnids() if wnid not in excluded]
    assert len(folders) == 919
    for number, wnid in enumerate(folders, start=1):
        for name in (f"{wnid}_2", f"{wnid}_10"):
            mask = layouts.coded_mask(np.array([[number]]))
            layouts.save(mask, root / "train-semi-segmentation" / wnid / f"{name}.png")
            layouts.save(Image.new("RGB", (1, 1)), root / "train-semi" / wnid / f"{name}.JPEG")
    return root, [wnid for wnid in folders if wnid not in MERGED.values()]


def wnids_of(root, **options) -> list[str]:
    return [name.split("/")[0] for name in load_image_set("paper-split", root, **options)["file_name"]]


def test_paper_split_is_500_and_414_classes_in_sorted_order(all_classes):
    root, classes = all_classes
    assert len(classes) == 914
    train = load_image_set("paper-split", root, samples_per_class=2)
    assert len(train) == 1000
    # Samples in the order of their names, "_10" before "_2", on every file system.
    assert [name.split("/")[1] for name in train["file_name"][:3]] == [
        f"{classes[0]}_10.JPEG",
        f"{classes[0]}_2.JPEG",
        f"{classes[1]}_10.JPEG",
    ]
    assert wnids_of(root, samples_per_class=1) == classes[:500]
    assert wnids_of(root, split="validation") == classes[500:]


def test_paper_split_options(all_classes):
    root, classes = all_classes
    shuffled = wnids_of(root, class_seed=1, samples_per_class=1)
    assert shuffled == wnids_of(root, class_seed=1, samples_per_class=1) != classes[:500]
    others = wnids_of(root, class_seed=1, split="validation")
    assert not set(shuffled) & set(others) and set(shuffled) | set(others) == set(classes)
    assert shuffled != wnids_of(root, class_seed=2, samples_per_class=1)
    # With fewer training classes the validation set stays; with more it shrinks.
    assert wnids_of(root, num_classes=100, samples_per_class=1) == classes[:100]
    assert wnids_of(root, num_classes=100, split="validation") == classes[500:]
    assert wnids_of(root, num_classes=600, split="validation") == classes[600:]


def test_paper_split_bad_numbers(all_classes):
    root, _ = all_classes
    for options in ({"num_classes": 914, "samples_per_class": 1}, {"samples_per_class": 3}):
        with pytest.raises(ValueError, match="has 914 classes without the merged ones, with 2 masks or more"):
            load_image_set("paper-split", root, **options)
