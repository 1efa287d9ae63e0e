"""The table in experiments/architectures.md: every architecture by diagnosis, background swap and LoRA. Those with maps have the tests of
`relevance/test_architectures.py`, too."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel

from robust_vit_hf import RobustViTTrainer, diagnose, load_model
from robust_vit_hf.relevance.architectures import why_no_map
from robust_vit_hf.relevance.relevance_map import forward_logits

from .helpers.architectures import HEADS_ALONE, WITH_MAP, WITHOUT_MAP, table
from .helpers.tiny import ROOT, tensor_rows, tiny_config


pytestmark = pytest.mark.usefixtures("undrawn")
EVERY = WITH_MAP | WITHOUT_MAP
# The others are in the slow suite.
FAST = ("CLIP", "SigLIP 2, NaFlex", "EVA-02 (timm)", "Swin", "MobileNet V2", "EfficientNet (timm)")


def each(names):
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in names]


def trained(name, folder, processor, **options) -> RobustViTTrainer:
    config = tiny_config(folder, method="swap", max_steps=2, learning_rate=1e-3)
    trainer = RobustViTTrainer(EVERY[name].tiny(), config, tensor_rows(8), processing_class=processor, **options)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(0 < loss < 1e3 for loss in losses)
    return trainer


@pytest.mark.parametrize("name", each(EVERY))
def test_diagnose(name, photographs, tmp_path, processor):
    """With relevance on the object if there is a map, or else LayerCAM."""
    model = EVERY[name].tiny()
    model.config.id2label = dict(enumerate("abcd"))
    diagnose(model, str(photographs), processor=processor, output_dir=tmp_path)
    measures = json.loads((tmp_path / "results.json").read_text())["diagnosis"]["before"]["measures"]
    assert 0 <= measures["original"]["mean"] <= 1
    assert ("relevance_on_object" in measures) == (name in WITH_MAP) == (why_no_map(model) is None)
    assert ("layercam_on_object" in measures) == (name in WITHOUT_MAP)


@pytest.mark.parametrize("name", each(EVERY))
def test_swap(name, tmp_path, processor):
    """The weights move, and the saved model has the logits of the trained one."""
    trainer = trained(name, tmp_path, processor)
    original = dict(EVERY[name].tiny().named_parameters())
    moved = [key for key, value in trainer.model.named_parameters() if not torch.equal(value, original[key])]
    assert len(moved) > len(original) / 2
    trainer.save_model()
    pixel_values = torch.stack([row["pixel_values"] for row in tensor_rows(3, seed=1)])
    loaded, model = load_model(str(tmp_path)).eval(), trainer.model.eval()
    torch.testing.assert_close(forward_logits(loaded, pixel_values), forward_logits(model, pixel_values))


@pytest.mark.parametrize("name", each(WITHOUT_MAP))
def test_lora(name, tmp_path, processor):
    """Adapters of linear layers move alone, and are saved. Convolutional models have none but the head."""
    trainer = trained(name, tmp_path, processor, peft_config=LoraConfig(r=2, target_modules="all-linear"))
    original = dict(EVERY[name].tiny().named_parameters())
    adapted = {key.partition(".lora_")[0] for key, _ in trainer.model.named_parameters() if ".lora_" in key}
    for key, value in trainer.model.named_parameters():
        own = key.removeprefix("base_model.model.").replace(".base_layer", "")
        assert ".lora_" in key or torch.equal(value, original[own]), key
    assert (len(adapted) == 1) == (name in HEADS_ALONE)
    moved = [value.any().item() for key, value in trainer.model.named_parameters() if ".lora_B" in key]
    assert sum(moved) > len(moved) / 2  # the attention of a stage of one token has no gradient in queries and keys
    trainer.save_model()
    pixel_values = torch.stack([row["pixel_values"] for row in tensor_rows(3, seed=1)])
    loaded, model = PeftModel.from_pretrained(EVERY[name].tiny(), tmp_path).eval(), trainer.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(forward_logits(loaded, pixel_values), forward_logits(model, pixel_values))


def test_the_table_in_the_documentation():
    page = (ROOT / "experiments" / "architectures.md").read_text(encoding="utf-8")
    assert table() in page, f"`python -m tests.helpers.architectures` writes:\n{table()}"
