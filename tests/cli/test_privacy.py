"""Nothing that is uploaded tells where on a machine it was made: every byte is searched, under relative paths too."""

import json
import socket
from pathlib import Path

import datasets
import pytest

from robust_vit_hf import load_masked_dataset

from ..helpers.commands import succeed
from ..helpers.tiny import masked_dataset, masked_rows, tiny_vit


@pytest.fixture
def machine(tmp_path, monkeypatch) -> list[bytes]:
    """What must not be uploaded: names of the host, of the user's home, of the folders above the given ones, and of photographs."""
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-host")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    folder = tmp_path / "secret-user" / "here"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    tiny_vit().save_pretrained(tmp_path / "secret-user" / "secret-project" / "model")
    for split, count in (("train", 8), ("validation", 4)):
        names = [f"secret-{number}.png" for number in range(count)]
        rows = masked_dataset(count, seed=count).add_column("file_name", names)
        copied = datasets.concatenate_datasets([rows, rows.select([0])])  # of which one is left out, which notes tell
        copied.to_parquet(tmp_path / "secret-user" / "secret-project" / "data" / f"{split}-00000.parquet")
    return [b"secret-", str(Path.home()).encode(), str(tmp_path).encode()]


def assert_nothing_in(files: dict[str, bytes], words: list[bytes]) -> None:
    for name, content in files.items():
        for word in words:
            assert word not in content and word not in name.encode(), (name, word)


def test_a_finetuned_model(hub, machine):
    """Trained from relative paths, evaluated, described and pushed twice."""
    options = "--num_train_epochs 1 --use_cpu --protocol paper --report_to tensorboard --learning_rate 0.01"
    places = "--model ../secret-project/model --dataset ../secret-project/data --output_dir ../secret-runs/run"
    succeed("train", *options.split(), *places.split(), "--push_to_hub", "--hub_model_id", "user/x")
    measured = "--model ../secret-project/model --compare ../secret-runs/run --dataset ../secret-project/data"
    succeed("evaluate", *measured.split(), "--output_dir", "../secret-runs/measured", "--protocols", "paper")
    assert_nothing_in({"results": Path("../secret-runs/measured/results.json").read_bytes()}, machine)
    succeed("card", "../secret-runs/run", "--evaluation", "../secret-runs/measured")
    assert_nothing_in(hub.repos["models", "user/x"], machine)
    succeed("push", "../secret-runs/run", "user/x")
    files = hub.repos["models", "user/x"]
    sources = json.loads(files["evaluation.json"])["protocols"]["paper"]["sources"]
    assert json.loads(files["results.json"])["notes"] == ["Left out as copies, which count once: 1 of 5 images."]
    assert sources == {"validation": "data"} and "accuracy_paper.png" in files
    assert not [name for name in files if "tfevents" in name]  # their names have the name of the machine
    assert_nothing_in(files, machine)


def test_images_with_masks(hub, machine):
    """Parquet is compressed, so its rows are searched."""
    photos = Path("../secret-project/photos/train")
    photos.mkdir(parents=True)
    for index, row in enumerate(masked_rows(2, size=(64, 64))):
        row["image"].save(photos / f"{index}.png")
    boxes = [{"id": index, "image_id": index, "category_id": 1, "bbox": [8, 8, 30, 30]} for index in range(2)]
    pictures = [{"id": index, "file_name": f"{index}.png", "width": 64, "height": 64} for index in range(2)]
    contents = {"images": pictures, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    Path("../secret-project/boxes.json").write_text(json.dumps(contents))
    places = "--images ../secret-project/photos --annotations ../secret-project/boxes.json --output_dir ../masks"
    succeed("masks", "coco", *places.split())
    where = succeed("push", "../masks", "user/masks", "--private").strip()
    assert ("datasets", "user/masks") in hub.private
    assert where.startswith(f"{hub.url}/datasets/user/masks/commit/")
    files = hub.repos["datasets", "user/masks"]
    assert_nothing_in(files, machine)
    rows = datasets.load_dataset("user/masks", split="train").cast_column("image", datasets.Image(decode=False))
    assert len(rows) == len(load_masked_dataset("user/masks", "train")) == 2
    assert_nothing_in({"rows": repr(list(rows)).encode()}, machine)
