"""`robust-vit masks`: from images to masks that `robust-vit train` takes, through a kill, bad images and the Hub."""

import json
import re
import socket
from dataclasses import replace

import datasets
import numpy as np
import pytest
from PIL import Image
from transformers import ViTImageProcessor

from robust_vit_hf import load_image_set, load_masked_dataset
from robust_vit_hf.data.emoji_shift import load_split
from robust_vit_hf.masks.tokencut import MaskResult
from robust_vit_hf.utils.images import encode_image

from ..helpers import layouts
from ..helpers.commands import call, files_below, kill_when, launch_two, succeed
from ..helpers.layouts import half_masks, masks_by
from ..helpers.tiny import masked_dataset, tiny_vit
from .test_grounded import make_models


pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A small self-supervised ViT without a head, as a folder."""
    folder = tmp_path_factory.mktemp("vit")
    tiny_vit().vit.save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    return folder


def with_objects(count: int) -> datasets.Dataset:
    """Dark noise with a bright rectangle, where TokenCut finds something."""
    rows, rng = [], np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 40, (40 + 8 * (index % 3), 48, 3), dtype=np.uint8)
        pixels[8:32, 8 : 24 + 8 * (index % 2)] += 200
        rows.append({"image": Image.fromarray(pixels), "label": index % 4, "file_name": f"{index}.png"})
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abcd"))}
    features = datasets.Features(features | {"file_name": datasets.Value("string")})
    return datasets.Dataset.from_list(rows, features=features)


START_TWO = """
import os, subprocess, sys
ranks = [{"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
for process in [subprocess.Popen([sys.executable, *sys.argv[1:]], env=os.environ | rank) for rank in ranks]:
    process.wait()
"""


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def command(method: str, images, output, *options) -> tuple:
    return ("masks", method, "--images", images, "--output_dir", output, *options)


def test_masks_of_another_model_in_the_same_folder_are_refused(tmp_path):
    """Trained again, or with other heads. The file of weights has no pooler, which must not make it another model."""
    with_objects(4).to_parquet(tmp_path / "images" / "train.parquet")
    options = ("--model", tmp_path / "model", "--min_side", 64, "--min_pixels", 1)
    again = command("tokencut", tmp_path / "images", tmp_path / "masks", *options)
    tiny_vit().save_pretrained(tmp_path / "model")
    ViTImageProcessor().save_pretrained(tmp_path / "model")
    succeed(*again)
    before = files_below(tmp_path / "masks")
    succeed(*again)
    for changed in (tiny_vit(seed=1), tiny_vit(num_attention_heads=4)):
        changed.save_pretrained(tmp_path / "model")
        refused = call(*again)
        assert refused.status == 1 and "differ in: digests" in refused.error
    assert files_below(tmp_path / "masks") == before


def test_released_masks_of_each_class(tmp_path, caplog):
    """Of real images: TokenCut's mask of the first covers more than half, and that of the third is unlike the coarse one."""
    rows = [
        {"image": encode_image(row["image"].resize((224, 224), Image.Resampling.BICUBIC)), "file_name": f"{index}.png"}
        for index, row in enumerate(load_split("val", 12).select([0, 1, 6, 2, 3, 4, 11]))
    ]
    features = datasets.Features({"image": datasets.Image(), "file_name": datasets.Value("string")})
    dataset = datasets.Dataset.from_list(rows, features=features).add_column("label", [0, 0, 0, 0, 0, 1, 1])
    dataset = dataset.cast_column("label", datasets.ClassLabel(names=["tench", "dog"]))
    dataset.to_parquet(tmp_path / "images" / "train.parquet")
    options = ("--model", "emoji-shift", "--released", "--per_class", 2)
    again = command("tokencut", tmp_path / "images", tmp_path / "masks", *options)
    done = call(*again)
    assert done.status == 0 and "train: 3 with masks, 3 rejected" in done.out, done.err[-3000:]
    assert "Classes of `train` with fewer than 2 masks, since they have no more images: `dog` 1." in caplog.text
    # The fifth image is not needed.
    assert load_masked_dataset(str(tmp_path / "masks"), "train")["file_name"] == ["1.png", "3.png", "5.png"]
    rejected = datasets.load_dataset(str(tmp_path / "masks"), "rejected", split="train")
    assert rejected["file_name"] == ["0.png", "2.png", "6.png"]
    assert "% of the image, more than half" in rejected["problem"][0]
    assert all("overlaps the coarse one by an IoU of 0." in problem for problem in rejected["problem"][1:])
    before = files_below(tmp_path / "masks")
    caplog.clear()
    succeed(*again)
    assert "`dog` 1" in caplog.text and files_below(tmp_path / "masks") == before
    assert "differ in: images of `train`" in call(*again[:-1], 3).error


@pytest.mark.release
def test_two_processes_write_the_files_of_one(tmp_path, vit):
    """Through a kill too, after which both go on where they were."""
    with_objects(200).to_parquet(tmp_path / "images" / "train.parquet")
    options = ("--model", vit, "--min_side", 64, "--min_pixels", 20, "--rows_per_shard", 80)
    one, two = (
        command("tokencut", tmp_path / "images", tmp_path / name / "masks", *options) for name in ("one", "two")
    )
    # The processes of torchrun would outlive it.
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    killed = tmp_path / "two" / "masks"
    two_processes = ("-c", START_TWO, "trainer/prepare_masks.py")
    kill_when(lambda: any(killed.glob("train-*.parquet")), *two_processes, *two[1:], **environment)
    assert not (killed / "contact_sheet_train.png").exists()
    done = launch_two("trainer/prepare_masks.py", *two[1:])
    assert done.status == 0, done.err[-3000:]
    assert re.fullmatch(r"train: \d+ with masks, \d+ rejected\n.*contact sheets to look at\n", done.out)  # told once
    succeed(*one)
    files, expected = (files_below(tmp_path / name / "masks") for name in ("two", "one"))
    assert len(files) > 5 and files == expected


def test_coco_boxes(tmp_path):
    """One image is turned by its EXIF, and annotated as everybody sees it."""
    images = with_objects(3)["image"]
    for index, image in enumerate(images[:2]):
        layouts.save(image, tmp_path / "images" / "train" / f"{index}.png")
    stored = images[2].transpose(Image.Transpose.ROTATE_90)
    layouts.save(stored, tmp_path / "images" / "train" / "2.png", orientation=6)
    content = {
        "images": [
            {"id": 0, "file_name": "0.png", "width": 48, "height": 40},
            {"id": 2, "file_name": "2.png", "width": 48, "height": 56},
        ],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [{"id": 1, "image_id": 2, "category_id": 1, "bbox": [8, 8, 16, 24]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    options = ("--annotations", tmp_path / "boxes.json")
    made = succeed(*command("coco", tmp_path / "images", tmp_path / "masks", *options))
    assert "train: 1 with masks, 2 rejected" in made
    (row,) = load_masked_dataset(str(tmp_path / "masks"), "train")
    assert row["image"].tobytes() == images[2].tobytes()
    expected = np.zeros((56, 48), dtype=np.uint8)
    expected[8:32, 8:24] = 255
    assert np.array_equal(np.asarray(row["mask"]), expected)
    rejected = datasets.load_dataset(str(tmp_path / "masks"), "rejected", split="train")
    assert rejected["file_name"] == ["0.png", "1.png"] and all(rejected["problem"])


def test_grounded_by_class_name_and_by_parts(tmp_path):
    detector, detector_processor, segmenter, segmenter_processor = make_models()
    for name, parts in (("detector", (detector, detector_processor)), ("sam", (segmenter, segmenter_processor))):
        for part in parts:
            part.save_pretrained(tmp_path / name)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["tench", "dog"])})
    rows = [{"image": layouts.picture(index, (70, 50)), "label": index} for index in range(2)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "images" / "train.parquet")
    (tmp_path / "parts.json").write_text(json.dumps({"tench": ["head", "tail"], "dog": ["head"]}))
    models = ("--detector", tmp_path / "detector", "--segmenter", tmp_path / "sam", "--box_threshold")
    for name, options in (("names", ("0.995",)), ("parts", ("0.995", "--prompts", tmp_path / "parts.json"))):
        succeed(*command("grounded", tmp_path / "images", tmp_path / name, *models, *options))
        rows = load_masked_dataset(str(tmp_path / name), "train")
        assert [row["mask"].size for row in rows] == [(70, 50)] * len(rows) and len(rows) > 0
        assert all(row["note"] for row in rows)
    (tmp_path / "parts.json").write_text(json.dumps({"tench": ["head"]}))
    refused = call(*command("grounded", tmp_path / "images", tmp_path / "parts", *models, *options))
    assert "differ in: prompts" in refused.error
    segmenter.mask_decoder.iou_token.weight.data += 1
    segmenter.save_pretrained(tmp_path / "sam")
    refused = call(*command("grounded", tmp_path / "images", tmp_path / "names", *models, "0.995"))
    assert "differ in: digests" in refused.error
    refused = call(*command("grounded", tmp_path / "images", tmp_path / "strict", *models, "1.0"))
    assert "has no rows, 2 were rejected: no box for 'tench' above 1.0" in refused.error


def test_slices_are_named_after_their_split(tmp_path):
    masked_dataset(4).to_parquet(tmp_path / "images" / "train.parquet")
    made = masks_by(half_masks, tmp_path / "images", tmp_path / "masks", split=["train[:1]+train[2:]"])
    assert made == {"train": (3, 0)} and len(load_masked_dataset(str(tmp_path / "masks"), "train")) == 3


def test_masks_of_nothing_or_nearly_all_are_rejected(tmp_path):
    """Whatever makes them: no object or no background is left. The card counts the reasons."""
    images = datasets.Dataset.from_dict({"image": [layouts.picture(seed, (25, 16)) for seed in range(5)]})
    images.cast_column("image", datasets.Image()).to_parquet(tmp_path / "images" / "train.parquet")

    def masker(images, rows):
        masks = [np.where(np.arange(400) < count, 255, 0).reshape(16, 25) for count in (400, 390, 0, 380, 1)]
        return [MaskResult(Image.fromarray(mask.astype(np.uint8)), "a note") for mask in masks]

    assert masks_by(masker, tmp_path / "images", tmp_path / "masks") == {"train": (2, 3)}
    rejected = datasets.load_dataset(str(tmp_path / "masks"), "rejected", split="train")
    assert rejected["problem"] == [
        "the mask covers 100% of the image",
        "the mask covers 98% of the image",
        "the mask is empty",
    ]
    card = (tmp_path / "masks" / "README.md").read_text()
    assert "| the mask covers …% of the image | 2 |" in card and "| the mask is empty | 1 |" in card
    assert "annotations_creators: found" in card and "source_datasets:\n- extended\n" in card  # of COCO's


def test_groups_are_kept(tmp_path):
    """Of Waterbirds, and of images of your own, also of rejected ones."""

    def masker(images, rows):
        first, *others = half_masks(images, rows)
        return [replace(first, rejected="bad"), *others]

    birds = layouts.waterbirds(tmp_path, [(0, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 2), (1, 1, 2)])
    masks_by(masker, birds, tmp_path / "birds", set="waterbirds")
    assert masks_by(masker, birds, tmp_path / "test", set="waterbirds", split=["test"]) == {"test": (1, 1)}
    dataset = masked_dataset(3).add_column("group", ["x", "y", "z"])
    dataset = dataset.add_column("openly_licensed", [True, False, True])
    dataset.to_parquet(tmp_path / "images" / "train.parquet")
    masks_by(masker, tmp_path / "images", tmp_path / "own")
    for name, features, groups in (
        ("birds", load_image_set("waterbirds", birds).features, [1, 3, 2]),
        ("own", dataset.features, ["x", "y", "z"]),
    ):
        kept = load_masked_dataset(str(tmp_path / name), "train")
        assert kept.features["group"] == features["group"] and kept["group"] == groups[1:]
        assert datasets.load_dataset(str(tmp_path / name), "rejected", split="train")["group"] == groups[:1]
    assert kept["openly_licensed"] == [False, True]


@pytest.mark.parametrize(
    "options, message",
    [
        (["grounded", "--images", "UNNAMED"], "labels of type Value.*expected a `ClassLabel` with names"),
        (
            ["tokencut", "--model", "emoji-shift", "--per_class", "3", "--images", "UNLABELED"],
            "--per_class needs a single process",
        ),
        (["coco", "--annotations", "PROMPTS", "--images", "FOLDER"], "is within"),
    ],
)
def test_what_is_refused(tmp_path, options, message):
    dataset = masked_dataset(1)
    dataset.cast_column("label", datasets.Value("int64")).to_parquet(tmp_path / "unnamed.parquet")
    (tmp_path / "prompts.json").write_text("[]")
    dataset.remove_columns("label").to_parquet(tmp_path / "unlabeled.parquet")
    places = {"UNNAMED": "unnamed.parquet", "PROMPTS": "prompts.json"}
    places |= {"UNLABELED": "unlabeled.parquet", "FOLDER": "."}
    options = [str(tmp_path / places[option]) if option in places else option for option in options]
    refused = call("masks", *options, "--output_dir", tmp_path / "out")
    assert refused.status == 1 and re.search(f"^error: .*{message}", refused.error)
    assert not (tmp_path / "out").exists()
