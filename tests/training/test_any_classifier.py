"""Finetuning of models that are no plain ViT: what trains, what batch norms keep, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoImageProcessor, ConvNextImageProcessor, ViTImageProcessor

from robust_vit_hf import RobustViTTrainer, load_model
from robust_vit_hf.models.loading import weights_digest
from robust_vit_hf.relevance.architectures import NoRelevanceMap
from robust_vit_hf.training.methods.augmentations import swap_in_batch

from ..diagnosis.test_any_classifier import of_timm
from ..helpers.architectures import WITHOUT_MAP
from ..helpers.commands import call, succeed
from ..helpers.tiny import LETTERS, masked_folder, tensor_rows, tiny_config


pytestmark = pytest.mark.usefixtures("undrawn")
MODELS = ("ResNet", "Swin", "timm")


def write(name, folder):
    """Write a classifier of 32×32 images, without random depth, and its image processor."""
    if name == "timm":
        of_timm(folder, input_size=[3, 32, 32])
        return
    settings = WITHOUT_MAP[name].settings | LETTERS | ({"drop_path_rate": 0.0} if name == "Swin" else {})
    replace(WITHOUT_MAP[name], settings=settings).tiny().save_pretrained(folder)
    plain = ViTImageProcessor(size={"height": 32, "width": 32})
    (plain if name == "Swin" else ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8)).save_pretrained(
        folder
    )


every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name in MODELS:
        write(name, root / name)
    masked_folder(root / "photos")
    return root


def trainer_of(folders, name, output, rows=None, **settings) -> RobustViTTrainer:
    model, processor = load_model(str(folders / name)), AutoImageProcessor.from_pretrained(folders / name)
    return RobustViTTrainer(model, tiny_config(output, **settings), rows or tensor_rows(8), processing_class=processor)


def statistics(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.named_buffers() if "running" in name or "tracked" in name}


@pytest.mark.parametrize("name", ["ResNet", "timm"])
def test_ten_steps_by_themselves_do_not_move_the_predictions(folders, tmp_path, name):
    """Batch norms normalise as before, and keep their statistics to the bit, whatever the weights do."""
    pixel_values = torch.stack([row["pixel_values"] for row in tensor_rows(6, seed=1)])
    for rate in (0.0, 1e-3):
        settings = {"method": "finetune", "background_swap": 1.0, "max_steps": 10, "per_device_train_batch_size": 4}
        trainer = trainer_of(folders, name, tmp_path / str(rate), learning_rate=rate, **settings)
        model = trainer.model.eval()
        weights = {key: value.clone() for key, value in model.named_parameters()}
        before, kept = model(pixel_values).logits.detach(), statistics(model)
        assert kept and trainer.train().global_step == 10
        after = statistics(model)
        assert all(torch.equal(value, after[key]) for key, value in kept.items())
        moved = [key for key, value in model.named_parameters() if not torch.equal(value, weights[key])]
        assert bool(moved) == bool(rate)
        with torch.no_grad():
            for key, value in model.named_parameters():
                value.copy_(weights[key])
        assert torch.equal(model.eval()(pixel_values).logits, before)


@every_model
def test_swap_is_the_divergence_from_the_original_on_other_backgrounds(folders, tmp_path, name):
    trainer = trainer_of(folders, name, tmp_path, method="swap")
    assert trainer.args.background_swap == 0.75 and trainer.args.confidence_target == "original"
    (batch,) = trainer.get_train_dataloader()
    model = load_model(str(folders / name))
    torch.manual_seed(0)
    swapped = swap_in_batch(batch["pixel_values"], batch["mask"], trainer.args, None)
    assert 3 <= (swapped != batch["pixel_values"]).flatten(1).any(1).sum() <= 7
    with torch.no_grad():
        target, found = (model(pixels).logits.log_softmax(1) for pixels in (batch["pixel_values"], swapped))
    expected = (target.exp() * (target - found)).sum(1).mean().item()
    torch.manual_seed(0)
    loss = trainer.compute_loss(trainer.model.train(), batch)
    assert loss.item() == pytest.approx(expected, rel=1e-3, abs=1e-9) and expected > 1e-8
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in trainer.model.parameters())


@every_model
def test_training_from_a_folder_to_a_folder(folders, tmp_path, name):
    """Weights, processor, results without relevance, examples and card; another training starts from the folder."""
    options = ["--dataset", folders / "photos", "--max_steps", 2, "--learning_rate", 0.01, "--method"]
    logs = ["--report_to", "tensorboard"]
    printed = succeed("train", "--model", folders / name, "--output_dir", tmp_path / "run", *options, "swap", *logs)
    assert "relevance" not in printed and "| validation | 8 |" in printed
    before, after = load_model(str(folders / name)), load_model(str(tmp_path / "run"))
    run, results = (json.loads((tmp_path / "run" / f"{file}.json").read_text()) for file in ("run", "results"))
    assert weights_digest(after) == run["weights"] == results["weights"]["after"] != weights_digest(before)
    assert type(after) is type(before) and after.config.id2label == before.config.id2label
    processors = [AutoImageProcessor.from_pretrained(place) for place in (folders / name, tmp_path / "run")]
    assert processors[0].to_dict() == processors[1].to_dict()
    assert (tmp_path / "run" / "before_after.png").is_file() and [*(tmp_path / "run").rglob("events*")]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "finetuned on images with swapped backgrounds" in card and "![Predictions before and after" in card
    assert "relevance m" not in card and "relevance-map" not in card
    again = ["--model", tmp_path / "run", "--output_dir", tmp_path / "again", "--background_swap", 0.5]
    succeed("train", *options, "finetune", *again, "--control")
    settings = json.loads((tmp_path / "again" / "results.json").read_text())
    assert settings["rows"][0]["top1_before"] == results["rows"][0]["top1_after"]
    assert settings["rows"][0]["top1_control"] is not None


@pytest.mark.parametrize("method", ["robustvit", "cft", "energy"])
def test_a_method_that_needs_maps_is_refused_before_data_is_read(folders, tmp_path, method):
    options = ["--model", folders / "timm", "--dataset", tmp_path / "nothing", "--output_dir", tmp_path / "run"]
    error = call("train", *options, "--method", method).error
    assert "has no relevance map" in error and f"`{method}` trains that map" in error
    assert "finetune, gradmask, rrr, swap" in error
    with pytest.raises(NoRelevanceMap, match=f"`{method}` trains that map"):
        trainer_of(folders, "timm", tmp_path, rows=[None], method=method)


@every_model
@pytest.mark.parametrize("method", ["gradmask", "rrr"])
def test_input_gradients_need_no_map(folders, tmp_path, name, method):
    """The loss of the background alone trains, which is differentiable."""
    weights = {"background_weight": 1.0, "confidence_weight": 0.0, "weight_decay": 0.0}
    trainer = trainer_of(folders, name, tmp_path, method=method, max_steps=1, **weights)
    before = weights_digest(trainer.model)
    trainer.train()
    assert weights_digest(trainer.model) != before


def test_a_model_in_memory_needs_its_processor(folders, tmp_path):
    model = load_model(str(folders / "Swin"))
    model.config._name_or_path = ""
    with pytest.raises(ValueError, match="give `processing_class`"):
        RobustViTTrainer(model, tiny_config(tmp_path, method="swap"), tensor_rows(4))
