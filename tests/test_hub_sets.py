"""Sets as others publish them: webdataset tars with numberings of their own, and the Hub, spoken to over loopback."""

import io
import json
import subprocess
import sys
from os import environ

import datasets
import pytest

from robust_vit_hf.data import load_image_set

from . import formats
from .hub import LoopbackHub


WNIDS = ["n01498041", "n01531178", "n01534433"]  # the first classes of ImageNet-A: labels 6, 11 and 13


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def wds(folder, labels, suffix="webp"):
    rows = [(f"s{index:07d}", formats.picture(index), label) for index, label in enumerate(labels)]
    return formats.webdataset(folder, rows, suffix)


def both_ways(name, source, **options) -> list[dict]:
    table = list(load_image_set(name, source, **options))
    stream = list(load_image_set(name, source, streaming=True, **options))
    assert [row["label"] for row in table] == [row["label"] for row in stream]
    assert [row["file_name"] for row in table] == [row["file_name"] for row in stream]
    return table


def test_webdataset_with_local_labels(tmp_path):
    wds(tmp_path / "test", [0, 1, 199, 2, 0])
    rows = both_ways("imagenet-a", tmp_path)
    assert [row["label"] for row in rows] == [6, 11, 988, 13, 6]
    assert [row["file_name"] for row in rows] == [f"s{index:07d}.webp" for index in range(5)]
    # The same numbers are others in ImageNet-R, and are themselves where a set has all classes.
    assert [row["label"] for row in both_ways("imagenet-r", tmp_path)] == [1, 2, 988, 4, 1]
    assert [row["label"] for row in both_ways("imagenet-sketch", tmp_path)] == [0, 1, 199, 2, 0]
    assert rows[0]["image"].size == (30, 24)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_webdataset_with_other_image_suffixes(tmp_path, suffix):
    wds(tmp_path, [3, 999], suffix)
    rows = both_ways("imagenet-v2", tmp_path)
    assert [(row["label"], row["file_name"]) for row in rows] == [
        (3, f"s0000000.{suffix}"),
        (999, f"s0000001.{suffix}"),
    ]


def test_webdataset_with_a_label_outside_the_numbering(tmp_path):
    wds(tmp_path, [0, 200])
    with pytest.raises(ValueError, match="label 200 is outside the numbering of this set, 0–199"):
        list(load_image_set("imagenet-a", tmp_path, streaming=True))


def test_webdataset_of_objectnet_needs_the_mappings(tmp_path):
    mappings = str(formats.objectnet(tmp_path / "objectnet-1.0") / "mappings")
    wds(tmp_path / "wds", [0, 1, 0])
    with pytest.raises(
        ValueError, match=r"numbers the 113 classes of ObjectNet in the order of their folders.*mappings"
    ):
        load_image_set("objectnet", tmp_path / "wds")
    rows = both_ways("objectnet", tmp_path / "wds", mappings=mappings)
    assert [row["label"] for row in rows] == [[423, 559, 765], [731], [423, 559, 765]]  # chair, plunger, chair
    rows = both_ways("objectnet", tmp_path / "wds", mappings=mappings, cropped=True)
    assert [row["image"].size for row in rows] == [(26, 20)] * 3


def test_truncated_webdataset_tar(tmp_path):
    tar = wds(tmp_path, [0, 1, 2]) / "1.tar"
    tar.write_bytes(tar.read_bytes()[:1536])
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"`.*1.tar` is truncated: it has no end-of-archive mark"):
            load_image_set("imagenet-a", tmp_path, streaming=streaming)


def test_real_labels_need_file_names(tmp_path):
    wds(tmp_path, [0])
    with pytest.raises(ValueError, match=r"`s0000000\.webp`: ReaL labels go by names such as ILSVRC2012_val_00000001"):
        list(load_image_set("imagenet-1k", tmp_path, labels="real", streaming=True))


# -- The Hub ----------------------------------------------------------------------------------------------------------


def parquet_of(columns: dict, features: dict, tmp_path) -> bytes:
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)
    return path.read_bytes()


def encoded(seed: int, name: str | None = None) -> dict:
    content = io.BytesIO()
    formats.picture(seed).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": name}


CODE = """
import json, sys
from robust_vit_hf.data import load_image_set
name, source, options = json.loads(sys.argv[1])
rows = load_image_set(name, source, **options)
print(json.dumps([[row["label"], row["file_name"], row["image"].size] for row in rows]))
"""


def load_in_subprocess(hub, tmp_path, name, source=None, token="hf_test", **options):
    variables = {**environ, **hub.environment(), "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": token}
    return subprocess.run(
        [sys.executable, "-c", CODE, json.dumps([name, source, options])],
        capture_output=True,
        text=True,
        env=variables,
        timeout=120,
    )


def rows_of(run) -> list:
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


def test_sets_from_the_hub(tmp_path):
    """ImageNet-A with its own numbering under wnid names, ImageNet-R by wnid without labels, ImageNet-V2 as an archive,
    ImageNet-1k with English names and file names for ReaL."""
    a_features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=WNIDS[::-1])}
    r_features = {"image": datasets.Image(), "wnid": datasets.Value("string"), "class_name": datasets.Value("string")}
    k_features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=[f"class {i}" for i in range(1000)])}
    k_names = [f"ILSVRC2012_val_{number:08d}_n01751748.JPEG" for number in (1, 2)]
    formats.class_folders(tmp_path / "imagenetv2-top-images-format-val", {"5": 1, "11": 1})
    archive = formats.tar_of(tmp_path / "imagenetv2-top-images-format-val", tmp_path / "v2.tar.gz").read_bytes()
    r_card = b"---\nconfigs:\n- config_name: test\n  data_files:\n  - split: test\n    path: data/test-*\n---\n"
    with LoopbackHub() as hub:
        hub.repos |= {
            ("datasets", "barkermrl/imagenet-a"): {
                "data/train-00000-of-00001.parquet": parquet_of(
                    {"image": [encoded(0, "x.jpg"), encoded(1)], "label": [0, 2]}, a_features, tmp_path
                )
            },
            ("datasets", "axiong/imagenet-r"): {
                "README.md": r_card,
                "data/test-00000-of-00001.parquet": parquet_of(
                    {"image": [encoded(2)], "wnid": ["n15075141"], "class_name": ["toilet tissue"]},
                    r_features,
                    tmp_path,
                ),
            },
            ("datasets", "ILSVRC/imagenet-1k"): {
                "data/validation-00000-of-00001.parquet": parquet_of(
                    {"image": [encoded(index, name) for index, name in enumerate(k_names)], "label": [65, 970]},
                    k_features,
                    tmp_path,
                )
            },
            ("datasets", "vaishaal/ImageNetV2"): {"imagenetv2-top-images.tar.gz": archive},
        }
        for streaming in (False, True):
            rows = rows_of(load_in_subprocess(hub, tmp_path, "imagenet-a", streaming=streaming))
            assert rows == [[13, "x.jpg", [30, 24]], [6, "0-1", [30, 24]]]
        assert rows_of(load_in_subprocess(hub, tmp_path, "imagenet-r")) == [[999, "0-0", [30, 24]]]
        rows = rows_of(load_in_subprocess(hub, tmp_path, "imagenet-1k"))
        assert [row[:2] for row in rows] == [
            [65, "ILSVRC2012_val_00000001.JPEG"],
            [970, "ILSVRC2012_val_00000002.JPEG"],
        ]
        for streaming in (False, True):
            rows = rows_of(load_in_subprocess(hub, tmp_path, "imagenet-1k", labels="real", streaming=streaming))
            assert [row[:2] for row in rows] == [[[970, 795], "ILSVRC2012_val_00000002.JPEG"]]
        rows = rows_of(load_in_subprocess(hub, tmp_path, "imagenet-v2", variant="top-images"))
        assert [row[0] for row in rows] == [5, 11]


def test_gated_set_without_a_token(tmp_path):
    with LoopbackHub() as hub:
        hub.repos["datasets", "ILSVRC/imagenet-1k"] = {"data/validation-00000-of-00001.parquet": b""}
        hub.gated.add("ILSVRC/imagenet-1k")
        run = load_in_subprocess(hub, tmp_path, "imagenet-1k", token="")
        last = run.stderr.strip().splitlines()[-1]
        assert last.startswith("PermissionError: `ILSVRC/imagenet-1k` is gated: accept its terms on")
        assert "hf auth login" in last


def test_set_that_is_not_on_the_hub(tmp_path):
    with LoopbackHub() as hub:
        run = load_in_subprocess(hub, tmp_path, "imagenet-a", "someone/imagenet-a")
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "FileNotFoundError: There is no file or folder `someone/imagenet-a`, and no such set on the Hub"
    )
