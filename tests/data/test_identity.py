"""A dataset is identified by its pixels, a model by what it computes, and results of others are not taken for theirs."""

import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification, ViTConfig

from robust_vit_hf.data.dataset_digest import dataset_identity
from robust_vit_hf.models.loading import model_digest, weights_digest
from robust_vit_hf.training.adapters import add_lora
from robust_vit_hf.utils.files import json_digest

from ..helpers.architectures import FAMILIES
from ..helpers.tiny import FEATURES, masked_dataset, masked_rows, tiny_vit


def changed(column: str, row: int = 2) -> datasets.Dataset:
    """The rows of `masked_dataset(4)`, of which one has another value in a column."""
    rows = masked_rows(4)
    rows[row][column] = 3 if column == "label" else masked_rows(1, seed=9)[0][column]
    return datasets.Dataset.from_list(rows, features=FEATURES)


@pytest.mark.parametrize("column", ["image", "mask", "label"])
def test_one_other_value_is_noticed(column):
    assert dataset_identity(changed(column)) != dataset_identity(masked_dataset(4))


def test_the_same_rows_have_the_same_identity(tmp_path):
    rows = masked_dataset(4)
    known = dataset_identity(rows)
    assert dataset_identity(masked_dataset(4)) == known
    assert dataset_identity(rows.with_transform(lambda rows: rows)) == known
    # However the table is cut, selected or stored.
    halves = [rows.select(range(0, 2)), rows.select(range(2, 4))]
    assert dataset_identity(datasets.concatenate_datasets(halves)) == known
    rows.to_parquet(tmp_path / "rows.parquet")
    assert dataset_identity(datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"))) == known
    assert dataset_identity(rows.cast_column("label", datasets.ClassLabel(names=list("abce")))) != known
    assert dataset_identity(rows.select([3, 2, 1, 0])) != known
    assert dataset_identity(rows.select(range(3))) != known


def test_files_are_identified_by_size_and_time(tmp_path):
    for name in "ab":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{name}.png") for name in "ab"]
    rows = datasets.Dataset.from_dict({"image": files}, features=datasets.Features({"image": datasets.Image()}))
    known = dataset_identity(rows)
    assert dataset_identity(rows) == known
    status = Path(files[1]).stat()
    os.utime(files[1], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert dataset_identity(rows) != known
    Path(files[1]).write_bytes(Path(files[1]).read_bytes() + b"more")
    os.utime(files[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert dataset_identity(rows) != known


@pytest.mark.parametrize(
    "setting",
    [{"num_attention_heads": 4}, {"hidden_act": "relu"}, {"layer_norm_eps": 1e-6}, {"hidden_dropout_prob": 0.2}],
)
def test_a_model_is_identified_by_its_settings_too(setting):
    assert weights_digest(tiny_vit(**setting)) == weights_digest(tiny_vit())
    assert model_digest(tiny_vit(**setting)) != model_digest(tiny_vit())


def test_a_model_is_identified_by_each_tensor_of_its_state():
    config = ResNetConfig(num_channels=3, embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    model = ResNetForImageClassification(config)
    known = [model_digest(model)]
    for tensor in model.state_dict().values():
        tensor.view(-1)[-1] += 1
        known.append(model_digest(model))
    assert len({*known}) == len(known) > 20


def test_the_order_of_keys_changes_no_digest():
    assert json_digest({"a": 1, "b": {"c": 2, "d": 3}}) == json_digest({"b": {"d": 3, "c": 2}, "a": 1})


def test_names_paths_and_storage_do_not_identify_a_model(tmp_path):
    known = model_digest(tiny_vit())
    model = tiny_vit(id2label=dict(enumerate("abcd")), problem_type="single_label_classification")
    model.save_pretrained(tmp_path / "saved")
    for attention in ("sdpa", "eager"):
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "saved", attn_implementation=attention)
        loaded.config.use_cache = False  # as the Trainer sets it
        assert model_digest(loaded) == model_digest(model) == known
    model.__class__ = type("OtherForImageClassification", (type(model),), {})  # which may compute something else
    assert model_digest(model) != known


def test_a_model_is_identified_by_the_settings_of_its_image_encoder():
    models = [FAMILIES["CLIP"].tiny() for _ in range(3)]
    models[1].config.vision_config.initializer_range = 0.5  # computes nothing
    models[2].config.vision_config.num_attention_heads = 4
    first, same, other = map(model_digest, models)
    assert first == same != other


def test_an_option_of_a_later_version_leaves_a_model_what_it_is():
    class LaterConfig(ViTConfig):
        slope: float = 1.0

    model = tiny_vit()
    for slope, same in ((1.0, True), (0.5, False)):
        model.config = LaterConfig(**tiny_vit().config.to_dict(), slope=slope)
        assert (model_digest(model) == model_digest(tiny_vit())) is same


def test_a_new_adapter_leaves_a_model_what_it_is():
    adapted = add_lora(tiny_vit(), 2, "tiny")
    assert model_digest(adapted) == model_digest(tiny_vit())
    adapted.base_model.model.classifier.lora_B["default"].weight.data += 1
    assert model_digest(adapted) != model_digest(tiny_vit())
    assert hasattr(adapted, "peft_config")  # and is left as it is
