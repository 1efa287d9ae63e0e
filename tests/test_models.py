"""Models by name: the paper's seven from where they lie on the Hub, adapters, and weights that are not whole."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Data2VecVisionConfig, Data2VecVisionForImageClassification, ViTModel

from robust_vit_hf import make_image_processor, relevance_map
from robust_vit_hf.evaluation.published import find_published
from robust_vit_hf.models import LICENSES, ZOO, load_model, load_processor

from .conftest import IMAGE_SIZE, masked_dataset, tiny_vit
from .families import SIZES
from .hub import LoopbackHub
from .timm_models import HUB_CONFIG, saved_in, tiny


ROOT = Path(__file__).parents[1]
PAPER_NAMES = {"vit-b": "ViT-B", "vit-l": "ViT-L", "deit-s": "DeiT-S", "deit-b": "DeiT-B"}
PAPER_NAMES |= {f"augreg-{size}": f"AR-{size.upper()}" for size in "sbl"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_zoo_is_that_of_the_published_figures():
    assert {name: find_published(hub_id) for name, hub_id in ZOO.items()} == PAPER_NAMES
    assert set(LICENSES) == {*ZOO.values(), "emoji-shift"}


def test_by_name(tmp_path):
    """Each name gives the model at its place on the Hub: timm's are converted, and both presets have their statistics."""
    deit = make_image_processor("native", IMAGE_SIZE, make_image_processor("paper", IMAGE_SIZE))
    deit.image_mean = [0.1, 0.2, 0.3]
    with LoopbackHub() as hub:
        for index, (name, hub_id) in enumerate(ZOO.items()):
            if hub_id.startswith("timm/"):
                folder = saved_in(tmp_path / name, tiny(index), HUB_CONFIG)
            else:
                folder = tmp_path / name
                tiny_vit(index).save_pretrained(folder)
                deit.save_pretrained(folder)
            hub.repos["models", hub_id] = contents(folder)
        code = """
import json
from robust_vit_hf.models import ZOO, load_model, load_processor
found = {}
for name in ZOO:
    model = load_model(name)
    means = [list(load_processor(name, preset, model).image_mean) for preset in ("paper", "native")]
    found[name] = [type(model).__name__, str(model.dtype), float(model.classifier.weight.double().sum()), means]
print(json.dumps(found))
"""
        environment = os.environ | hub.environment() | {"HF_HOME": str(tmp_path / "home")}
        completed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr[-3000:]
    found = json.loads(completed.stdout.splitlines()[-1])
    for index, name in enumerate(ZOO):
        model = tiny(index) if name.startswith("augreg") else tiny_vit(index)
        head = model.head if name.startswith("augreg") else model.classifier
        native = HUB_CONFIG["pretrained_cfg"]["mean"] if name.startswith("augreg") else [0.1, 0.2, 0.3]
        expected = ["ViTForImageClassification", "torch.float32", pytest.approx(head.weight.double().sum().item())]
        assert found[name] == [*expected, [[0.5] * 3, native]], name


@pytest.mark.parametrize("name, learning_rate, temperature", [("deit-s", 1e-6, 0.55), ("augreg-s", 2e-6, 1.0)])
def test_a_name_brings_its_recipe(name, learning_rate, temperature, tmp_path):
    """`--model NAME` trains with the learning rate and temperature of its recipe, and under its preset."""
    (tmp_path / "data").mkdir()
    masked_dataset(8).to_parquet(tmp_path / "data" / "train-00000.parquet")
    masked_dataset(4, seed=1).to_parquet(tmp_path / "data" / "validation-00000.parquet")
    if name.startswith("augreg"):
        folder = saved_in(tmp_path / "model", tiny(), HUB_CONFIG)
    else:
        folder = tmp_path / "model"
        tiny_vit().save_pretrained(folder)
    options = ["--model", name, "--dataset", tmp_path / "data", "--output_dir", tmp_path / "run", "--use_cpu"]
    with LoopbackHub() as hub:
        hub.repos["models", ZOO[name]] = contents(folder)
        completed = subprocess.run(
            [sys.executable, "trainer/train.py", *map(str, options), "--num_train_epochs", "1", "--report_to", "none"],
            cwd=ROOT,
            env=os.environ | hub.environment() | {"HF_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert completed.returncode == 0, completed.stderr[-3000:]
    settings = json.loads((tmp_path / "run" / "results.json").read_text())["settings"]
    assert settings["training"]["learning_rate"] == learning_rate
    assert settings["training"]["confidence_temperature"] == temperature
    assert settings["model"]["model"] == name and settings["model"]["preset"] == "paper"
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"base_model: {ZOO[name]}\n" in card and "license: apache-2.0\n" in card
    assert load_model(str(tmp_path / "run")).config.model_type == "vit"


def test_a_folder_of_timm(tmp_path):
    folder = saved_in(tmp_path / "timm", tiny(), HUB_CONFIG, dtype=torch.float16)
    model = load_model(str(folder))
    assert model.dtype == torch.float32 and not model.training
    assert list(load_processor(str(folder), "native", model).image_mean) == HUB_CONFIG["pretrained_cfg"]["mean"]
    assert load_processor(str(folder), "paper", model).crop_size["height"] == 32


def test_an_adapter_is_merged(tmp_path):
    torch.manual_seed(0)
    tiny_vit().save_pretrained(tmp_path / "base")
    adapted = get_peft_model(load_model(str(tmp_path / "base")), LoraConfig(r=2, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    model = load_model(str(tmp_path / "adapter"))
    pixel_values = torch.randn(2, 3, 32, 32)
    expected = adapted.eval()(pixel_values=pixel_values).logits
    torch.testing.assert_close(model(pixel_values).logits, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, tiny_vit()(pixel_values).logits, atol=0.1)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any("lora" in name for name in model.state_dict())


@pytest.mark.parametrize("fault", ["names", "missing", "shapes", "cut off", "base"])
def test_adapters_that_do_not_fit(fault, tmp_path):
    tiny_vit().save_pretrained(tmp_path / "base")
    adapted = get_peft_model(load_model(str(tmp_path / "base")), LoraConfig(r=2, target_modules="all-linear"))
    adapted.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None if fault == "base" else str(tmp_path / "base")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    if fault == "names":
        weights = {name.replace("layers", "blocks"): tensor for name, tensor in weights.items()}
    elif fault == "missing":
        weights = dict(list(weights.items())[::2])
    elif fault == "shapes":
        weights = {name: torch.zeros(3, 3) for name in weights}
    save_file(weights, file, metadata={"format": "pt"})
    if fault == "cut off":
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"does not fit|does not name its base"):
        load_model(str(tmp_path / "adapter"))


def test_data2vec_is_loaded_with_attentions(tmp_path):
    Data2VecVisionForImageClassification(Data2VecVisionConfig(**SIZES)).save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert relevance_map(model, torch.randn(1, 3, 32, 32)).relevance.shape == (1, 1, 32, 32)


# -- What is refused --------------------------------------------------------------------------------------------------


def test_weights_that_are_cut_off(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cannot be loaded. SafetensorError"):
        load_model(str(tmp_path))


def test_a_backbone_without_a_head(tmp_path):
    ViTModel(tiny_vit().config).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"lacks 2 weights of a `ViTForImageClassification`, such as `classifier.bias`"
    ):
        load_model(str(tmp_path))


def test_another_head_size(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.weight"], weights["classifier.bias"] = torch.zeros(7, 24), torch.zeros(7)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"`classifier.bias` \(7,\), expected \(4,\); `classifier.weight`"):
        load_model(str(tmp_path))


class Payload:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_that_runs_code(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"classifier.weight": Payload(tmp_path / "ran")}))
    with pytest.raises((ValueError, OSError)):
        load_model(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_configuration_of_fewer_layers(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"holds 16 weights of layers that its `config.json` does not have"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"hidden')
    with pytest.raises(ValueError, match=r"config.json` is no JSON"):
        load_model(str(tmp_path))


def test_no_such_model():
    with pytest.raises(OSError, match="no/such-model"):
        load_model("no/such-model")
