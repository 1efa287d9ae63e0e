"""The command: weights survive the way there and back bit for bit, timm and transformers load what is written, and a file
that is no good leaves nothing behind."""

import argparse
import json
import math
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config

from robust_vit_hf import make_image_processor
from robust_vit_hf.models.model_names import find_model
from robust_vit_hf.models.timm_format import hf_to_timm, load_timm, save_timm, timm_to_hf

from ..helpers.architectures import WITHOUT_MAP
from ..helpers.commands import call, succeed
from ..helpers.timm_models import HUB_CONFIG, assert_same_logits, assert_same_weights, images, saved_in, tiny
from ..helpers.tiny import save_pretrained, tiny_vit


def convert(source, output, *options) -> str:
    return succeed("convert", source, "--output_dir", output, *options)


def refused(message: str, source, output, *options) -> None:
    assert re.search(message, call("convert", source, "--output_dir", output, *options).error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_timm_to_hf_to_timm(name, dtype, tmp_path):
    model = tiny(name=name)
    source = saved_in(tmp_path / "source", model, dtype=dtype)
    convert(source, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "new" / "timm", "--to", "timm")
    back = tmp_path / "new" / "timm"
    assert_same_weights(load_file(back / "model.safetensors"), load_file(source / "model.safetensors"))
    assert sorted(path.name for path in back.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((back / "config.json").read_text())["architecture"] == name
    loaded = timm.create_model(f"local-dir:{back}", pretrained=True).eval()
    assert type(loaded) is type(model)
    if dtype == torch.float32:
        assert_same_weights(loaded.state_dict(), model.state_dict())
        assert torch.equal(loaded(images(32)), model(images(32)))
    # and once more, which no size in the weights tells apart from the first time
    convert(back, tmp_path / "again")
    for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "hf" / file).read_bytes(), file


@pytest.mark.parametrize("distilled", [False, True])
def test_hf_to_timm_to_hf(distilled, tmp_path):
    """Sizes that no architecture of timm has, with names of classes."""
    names = ["cat", "dog", "crème brûlée"]
    options = {
        "hidden_size": 49,
        "num_attention_heads": 7,
        "num_hidden_layers": 3,
        "intermediate_size": 54,  # 54 / 49 · 49 falls below 54 in floating point
        "image_size": 36,
        "patch_size": 6,
        "num_channels": 1,
        "qkv_bias": not distilled,
        "layer_norm_eps": 1e-6,
        "initializer_range": 0.3,
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
    torch.manual_seed(0)
    if distilled:
        model = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**options)).eval()
    else:
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "timm", "--to", "timm", "--statistics", "half")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    torch.testing.assert_close(loaded(images(36, 1)), model(images(36, 1)).logits, rtol=0, atol=1e-5)
    convert(tmp_path / "timm", tmp_path / "back")
    back = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "back")
    assert_same_weights(back.state_dict(), model.state_dict())
    assert back.config.id2label == model.config.id2label and back.config.label2id == model.config.label2id
    assert back.config.num_attention_heads == 7 and back.config.qkv_bias is not distilled


@pytest.mark.parametrize(
    ("options", "crop_mode"),
    [
        ({"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": 32, "resample": 2}, "center"),
        ({"size": {"shortest_edge": 34}, "do_center_crop": True, "crop_size": 32, "resample": 3}, "center"),
        ({"size": {"height": 32, "width": 32}, "resample": 3}, "squash"),
        ({"size": {"height": 40, "width": 40}, "do_center_crop": True, "crop_size": 32, "resample": 2}, "squash"),
    ],
)
def test_timm_preprocesses_as_the_processor(options, crop_mode, tmp_path):
    processor = transformers.ViTImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], **options)
    tiny_vit().save_pretrained(tmp_path / "hf")
    processor.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "timm", "--to", "timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    settings = resolve_data_config(model=model)
    assert settings["crop_mode"] == crop_mode and settings["input_size"] == (3, 32, 32)
    noise = np.random.default_rng(0).integers(0, 256, (14, 7, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((70, 140), Image.Resampling.BICUBIC)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    pixels = create_transform(**settings)(image)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=2 / 255 / 0.2)  # two backends, each rounds to 8 bits


@pytest.mark.parametrize("size", [429, 890])  # where size / (size / resized) falls below resized
def test_crop_that_floating_point_would_shrink(size, tmp_path):
    model = tiny_vit(image_size=size, patch_size=size)
    processor = make_image_processor("native", size, transformers.ViTImageProcessor())
    save_timm(model, hf_to_timm(model), processor, tmp_path)
    crop_pct = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["crop_pct"]
    assert math.floor(size / crop_pct) == round(size * 248 / 224) == processor.size["shortest_edge"]


def test_checkpoint_of_a_parallel_training(tmp_path):
    """As RobustViT saves it, optimizer and all, and as DeiT does, with its command line."""
    model = tiny()
    optimizer = torch.optim.AdamW(model.parameters())
    model(images(32)).sum().backward()
    optimizer.step()
    expected = model.state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in expected.items()}
    state = {"epoch": 3, "arch": "vit", "best_acc1": torch.tensor(80.3), "optimizer": optimizer.state_dict()}
    files = {
        "checkpoint.pth.tar": state | {"state_dict": wrapped},
        "deit.pth": {"model": expected, "args": argparse.Namespace(lr=1e-3)},
        "plain.pt": expected,
        "nested.bin": {"model": {"state_dict": wrapped}},
    }
    for name, content in files.items():
        for zipped in (True, False):
            torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
            weights, config = load_timm(tmp_path / name)
            assert config is None
            assert_same_weights(weights, expected)
    assert_same_logits(model, timm_to_hf(*load_timm(tmp_path / "checkpoint.pth.tar")), 32)


def test_folder_prefers_safetensors(tmp_path):
    folder = saved_in(tmp_path / "folder", tiny(0), HUB_CONFIG)
    torch.save(tiny(1).state_dict(), folder / "pytorch_model.bin")
    weights, config = load_timm(folder)
    assert_same_weights(weights, tiny(0).state_dict())
    assert config == HUB_CONFIG
    (folder / "model.safetensors").unlink()
    assert_same_weights(load_timm(folder)[0], tiny(1).state_dict())
    assert timm_to_hf(*load_timm(folder), image_size=64).config.image_size == 64
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="is neither a file"):
        load_timm(folder)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare"])
def test_pickle_that_would_run_code(kind, tmp_path):
    trace, file = tmp_path / "it-ran", tmp_path / "weights.pth"
    content = {"state_dict": tiny().state_dict(), "more": Payload(trace)}
    if kind == "bare":
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    refused("None of its code was run", file, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.pth"]
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists()  # it does run where nothing keeps it from it


@pytest.mark.parametrize("part", [0, 0.5])
@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth", "cut-legacy.pth", "pytorch_model.bin"])
def test_truncated_file(name, part, tmp_path):
    file = tmp_path / "source" / name
    file.parent.mkdir()
    if name.endswith("safetensors"):
        save_file(tiny().state_dict(), file)
    else:
        torch.save(tiny().state_dict(), file, _use_new_zipfile_serialization="legacy" not in name)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * part)])
    refused(f"{name}` (cannot|is not)", file.parent if name == "pytorch_model.bin" else file, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_models_of_transformers_that_cannot_be_converted(tmp_path):
    transformers.ViTModel(tiny_vit().config, add_pooling_layer=False).save_pretrained(tmp_path / "backbone")
    tiny_vit(image_size=[32, 64]).save_pretrained(tmp_path / "wide")
    save_pretrained(WITHOUT_MAP["ResNet"].tiny(), tmp_path / "cnn")
    refused("ResNetForImageClassification", tmp_path / "cnn", tmp_path / "out", "--to", "timm")
    for name, message in (
        ("backbone", r"lacks weights of a `\w+`, \d+ in all"),
        ("wide", "square"),
        ("cnn", "ResNetFor"),
    ):
        refused(message, tmp_path / name, tmp_path / "out", "--to", "timm", "--statistics", "half")
    assert not (tmp_path / "out").exists()


def test_presets(tmp_path):
    source = saved_in(tmp_path / "source", tiny(), HUB_CONFIG)
    convert(source, tmp_path / "native", "--protocol", "native", "--image_size", "224")
    native = transformers.AutoImageProcessor.from_pretrained(tmp_path / "native")
    assert native.size["shortest_edge"] == 248 and native.crop_size["height"] == 224
    assert native.resample == Image.Resampling.BICUBIC
    assert [*native.image_mean, *native.image_std] == [0.485, 0.456, 0.406, 0.229, 0.224, 0.225]

    unused = ("--protocol", "paper", "--statistics", "half")
    refused("--statistics has no effect with --to hf", source, tmp_path / "file", *unused)
    arguments = [str(source / "model.safetensors"), str(tmp_path / "file"), "--protocol", "native"]
    refused(
        r"mean and standard deviation of the pretraining are not known.*`--statistics imagenet` or `half`", *arguments
    )
    convert(*arguments, "--statistics", "half")
    assert transformers.AutoImageProcessor.from_pretrained(tmp_path / "file").image_std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("setting", [{"size": {"height": 48, "width": 48}}, {"do_normalize": False}])
def test_preprocessing_that_timm_has_not(setting, tmp_path):
    tiny_vit().save_pretrained(tmp_path / "hf")
    transformers.ViTImageProcessor(**{"size": {"height": 32, "width": 32}} | setting).save_pretrained(tmp_path / "hf")
    refused("--statistics", tmp_path / "hf", tmp_path / "out", "--to", "timm")
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_behind_by_a_failure(tmp_path):
    source = saved_in(tmp_path / "source", tiny())
    refused("Expected a multiple of the patch size", source, tmp_path / "new" / "out", "--image_size", 33)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_models_on_the_hub(hub, tmp_path):
    """Only what is needed is downloaded, and the way back starts from the Hub as well."""
    model = tiny()
    source = saved_in(tmp_path / "source", model, HUB_CONFIG)
    torch.save(tiny(1).state_dict(), source / "pytorch_model.bin")
    name = "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"
    hub.add("models", name, source)
    hub.repos["models", name]["README.md"] = b"# model"
    pickled = {name: content for name, content in hub.repos["models", name].items() if name != "model.safetensors"}
    hub.repos["models", "someone/pickled"] = pickled
    convert(name, tmp_path / "hf", "--protocol", "native")
    cache = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    assert {path.name for path in cache.glob("snapshots/*/*")} == {"config.json", "model.safetensors"}
    converted = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "hf")
    assert_same_weights(hf_to_timm(converted), model.state_dict())
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    assert list(processor.image_mean) == HUB_CONFIG["pretrained_cfg"]["mean"]
    assert find_model(str(tmp_path / "hf")) == "augreg-s"  # what was converted is known by where it came from

    hub.add("models", "someone/ours", tmp_path / "hf")
    convert("someone/pickled", tmp_path / "pickled")
    convert("someone/ours", tmp_path / "timm", "--to", "timm")
    converted = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "pickled")
    assert_same_weights(hf_to_timm(converted), tiny(1).state_dict())
    assert_same_weights(load_file(tmp_path / "timm" / "model.safetensors"), model.state_dict())
