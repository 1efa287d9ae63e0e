"""trainer/prepare_masks.py: from images to masks that train.py takes, through a kill, bad images and the Hub."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from os import environ
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from robust_vit_hf import load_masked_dataset

from . import formats
from .conftest import masked_dataset, tiny_vit
from .hub import LoopbackHub
from .test_grounded import make_models


SCRIPTS = Path(__file__).parents[1] / "trainer"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A small self-supervised ViT without a head, as a folder."""
    folder = tmp_path_factory.mktemp("vit")
    backbone = tiny_vit().vit
    model = ViTModel(ViTConfig(**{**backbone.config.to_dict(), "patch_size": 8}), add_pooling_layer=False)
    model.load_state_dict(backbone.state_dict())
    model.save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    return folder


def command(method: str, images: Path, output: Path, *options: object) -> list[str]:
    start = [
        sys.executable,
        str(SCRIPTS / "prepare_masks.py"),
        method,
        "--images",
        str(images),
        "--output",
        str(output),
    ]
    return [*start, *map(str, options)]


def run(*arguments, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(*arguments, capture_output=True, text=True, timeout=300, **settings)


def with_objects(count: int) -> datasets.Dataset:
    """Dark noise with a bright square, where TokenCut finds something."""
    rows = []
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 40, (40 + 8 * (index % 3), 48, 3), dtype=np.uint8)
        pixels[8:32, 8 : 24 + 8 * (index % 2)] += 200
        rows.append({"image": Image.fromarray(pixels), "label": index % 4, "file_name": f"{index}.png"})
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abcd"))}
    return datasets.Dataset.from_list(
        rows, features=datasets.Features(features | {"file_name": datasets.Value("string")})
    )


def test_tokencut_masks_train(tmp_path, vit):
    dataset = with_objects(12)
    for split in ("train", "validation"):
        dataset.to_parquet(tmp_path / "images" / f"{split}.parquet")
    options = ("--model", vit, "--min_pixels", 20, "--split", "train", "validation")
    done = run(command("tokencut", tmp_path / "images", tmp_path / "masks", *options))
    assert done.returncode == 0, done.stderr[-3000:]
    masks = load_masked_dataset(str(tmp_path / "masks"), "train")
    kept, rejected = map(int, re.search(r"train: (\d+) masks, (\d+) rejected", done.stdout).groups())
    assert kept == len(masks) > 0 and kept + rejected == 12
    by_name = {row["file_name"]: row for row in dataset}
    for row in masks:
        assert row["mask"].mode == "L" and row["mask"].size == by_name[row["file_name"]]["image"].size
        assert row["image"].tobytes() == by_name[row["file_name"]]["image"].tobytes()
        assert row["label"] == by_name[row["file_name"]]["label"]
        assert set(np.unique(np.asarray(row["mask"]))) == {0, 255}
    assert (tmp_path / "masks" / "contact_sheet_train.png").is_file()
    assert str(tmp_path) not in "".join(
        (tmp_path / "masks" / name).read_text() for name in ("README.md", "made_by.json")
    )

    tiny_vit().save_pretrained(tmp_path / "model")
    arguments = ["--model", tmp_path / "model", "--dataset", tmp_path / "masks", "--output_dir", tmp_path / "run"]
    arguments += ["--num_train_epochs", 1, "--report_to", "none", "--use_cpu", "true"]
    done = run([sys.executable, str(SCRIPTS / "train.py"), *map(str, arguments)])
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_kill_redoes_no_finished_image(tmp_path, vit):
    with_objects(200).to_parquet(tmp_path / "images" / "train.parquet")
    options = ("--model", vit, "--min_pixels", 20, "--rows_per_shard", 70)
    assert run(command("tokencut", tmp_path / "images", tmp_path / "whole", *options)).returncode == 0

    output = tmp_path / "masks"
    process = subprocess.Popen(
        command("tokencut", tmp_path / "images", output, *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(output.glob("train-*.parquet")):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {
        path: path.stat().st_mtime_ns for path in [*output.glob("train-*"), *output.glob(".parts/train/*-*.parquet")]
    }
    done_rows = max(int(re.findall(r"\d+", path.stem)[-1]) for path in finished)
    assert 70 <= done_rows < 200
    shard = min(output.glob("train-*.parquet"))
    assert parquet.read_table(shard)["mask"].null_count == 0  # it is valid as it is

    again = run(command("tokencut", tmp_path / "images", output, *options))
    assert again.returncode == 0, again.stderr[-3000:]
    bars = re.findall(r"tokencut \(train\):.*?(\d+)/200", again.stderr.replace("\r", "\n"))
    assert int(bars[0]) == done_rows  # the progress bar starts where the kill was
    assert all(not path.exists() or path.stat().st_mtime_ns == stamp for path, stamp in finished.items())
    masks, whole = (load_masked_dataset(str(folder), "train") for folder in (output, tmp_path / "whole"))
    assert masks["file_name"] == whole["file_name"] and len(masks) > 100
    assert all(a["mask"].tobytes() == b["mask"].tobytes() for a, b in zip(masks, whole, strict=True))


def test_images_that_cannot_be_read(tmp_path, vit):
    for index in range(3):
        formats.save(formats.picture(index, (48, 40)), tmp_path / "photos" / "train" / f"{index}.png")
    broken = tmp_path / "photos" / "train" / "1.png"
    broken.write_bytes(broken.read_bytes()[:500])
    options = ("--model", vit, "--min_pixels", 1)
    done = run(command("tokencut", tmp_path / "photos", tmp_path / "masks", *options))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"error: `.*1.png` cannot be decoded(.|\n)*--skip_bad leaves such images out", done.stderr)
    done = run(command("tokencut", tmp_path / "photos", tmp_path / "masks", *options, "--skip_bad"))
    assert done.returncode == 0, done.stderr[-3000:]
    rejected = datasets.load_dataset(str(tmp_path / "masks"), "rejected", split="train")
    assert "1.png` cannot be decoded" in rejected[rejected["file_name"].index("1.png")]["problem"]


def test_coco_boxes(tmp_path):
    rows = with_objects(3)
    rows.to_parquet(tmp_path / "images" / "train.parquet")
    content = {
        "images": [
            {"id": index, "file_name": f"{index}.png", "width": 48, "height": 40 + 8 * index} for index in range(2)
        ],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [8, 8, 16, 24]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    done = run(command("coco", tmp_path / "images", tmp_path / "masks", "--annotations", tmp_path / "boxes.json"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "train: 1 masks, 2 rejected" in done.stdout
    (row,) = load_masked_dataset(str(tmp_path / "masks"), "train")
    expected = np.zeros((40, 48), dtype=np.uint8)
    expected[8:32, 8:24] = 255
    assert np.array_equal(np.asarray(row["mask"]), expected)
    rejected = datasets.load_dataset(str(tmp_path / "masks"), "rejected", split="train")
    assert rejected["file_name"] == ["1.png", "2.png"] and all(rejected["problem"])


def test_grounded_by_class_name_and_by_parts(tmp_path):
    detector, detector_processor, segmenter, segmenter_processor = make_models()
    for name, parts in (("detector", (detector, detector_processor)), ("sam", (segmenter, segmenter_processor))):
        for part in parts:
            part.save_pretrained(tmp_path / name)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["tench", "dog"])})
    rows = [{"image": formats.picture(index, (70, 50)), "label": index} for index in range(2)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "images" / "train.parquet")
    (tmp_path / "parts.json").write_text(json.dumps({"tench": ["head", "tail"], "dog": ["head"]}))
    options = ("--detector", tmp_path / "detector", "--segmenter", tmp_path / "sam", "--box_threshold")
    runs = {
        "names": ("0.0",),
        "parts": ("0.0", "--prompts", tmp_path / "parts.json"),
        "strict": ("1.1",),
    }
    texts = {}
    for name, more in runs.items():
        done = run(command("grounded", tmp_path / "images", tmp_path / name, *options, *more))
        texts[name] = done.stdout + done.stderr
    for name in ("names", "parts"):
        rows = load_masked_dataset(str(tmp_path / name), "train")
        assert [row["mask"].size for row in rows] == [(70, 50)] * len(rows) and len(rows) > 0
        assert all(row["note"] for row in rows)
    assert "has no rows: all 2 were rejected, the first for: no box for 'tench' above 1.1" in texts["strict"]


def test_masks_of_a_set_of_the_paper(tmp_path, vit):
    formats.class_folders(tmp_path / "val", {"n01440764": 2, "n15075141": 1}, ".JPEG")
    options = ("--set", "imagenet-1k", "--split", "validation", "--model", vit, "--min_pixels", 0)
    done = run(command("tokencut", tmp_path / "val", tmp_path / "masks", *options))
    assert done.returncode == 0, done.stderr[-3000:]
    shards = [*(tmp_path / "masks").glob("*.parquet"), *(tmp_path / "masks" / "rejected").glob("*.parquet")]
    names = {row["file_name"]: row["label"] for shard in shards for row in parquet.read_table(shard).to_pylist()}
    assert names == {
        "n01440764/n01440764_0.JPEG": 0,
        "n01440764/n01440764_1.JPEG": 0,
        "n15075141/n15075141_0.JPEG": 999,
    }


def test_push_to_the_hub(tmp_path, vit):
    with_objects(4).to_parquet(tmp_path / "images" / "train.parquet")
    assert (
        run(command("tokencut", tmp_path / "images", tmp_path / "m", "--model", vit, "--min_pixels", 1)).returncode
        == 0
    )
    push = "import datasets, sys; datasets.load_dataset(sys.argv[1]).push_to_hub('user/masks')"
    load = (
        "import sys; from robust_vit_hf import load_masked_dataset; rows = load_masked_dataset('user/masks', 'train');"
        "print(len(rows), [row['mask'].size for row in rows])"
    )
    count = len(load_masked_dataset(str(tmp_path / "m"), "train"))
    with LoopbackHub() as hub:
        for name, code in (("pushing", push), ("loading", load)):
            variables = {**environ, **hub.environment(), "HF_HOME": str(tmp_path / name)}
            done = run([sys.executable, "-c", code, str(tmp_path / "m")], env=variables)
            assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(f"{count} [(48, 40)")


@pytest.mark.parametrize(
    "options, message",
    [
        (["tokencut", "--model", "emoji-shift", "--images", "nowhere"], "There is no file or folder `nowhere`"),
        (["coco", "--annotations", "nowhere.json", "--images", "IMAGES"], "nowhere.json"),
        (["grounded", "--images", "UNNAMED"], "labels of type Value.*expected a `ClassLabel` with names"),
        (["grounded", "--images", "IMAGES", "--prompts", "PROMPTS"], "is no JSON object such as"),
    ],
)
def test_what_is_refused(tmp_path, options, message):
    dataset = masked_dataset(1)
    dataset.to_parquet(tmp_path / "named.parquet")
    dataset.cast_column("label", datasets.Value("int64")).to_parquet(tmp_path / "unnamed.parquet")
    (tmp_path / "prompts.json").write_text("[]")
    places = {"IMAGES": "named.parquet", "UNNAMED": "unnamed.parquet", "PROMPTS": "prompts.json"}
    options = [str(tmp_path / places[option]) if option in places else option for option in options]
    done = run([sys.executable, str(SCRIPTS / "prepare_masks.py"), *options, "--output", str(tmp_path / "out")])
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(f"error: .*{message}", done.stderr)
