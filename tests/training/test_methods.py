"""Methods of finetuning: their losses against slow references, their derivatives, and what reaches the weights."""

import ast
import re

import pytest
import torch
from torch.autograd import gradcheck

from robust_vit_hf import RobustViTTrainer, relevance_map
from robust_vit_hf.relevance.architectures import VisionTransformer
from robust_vit_hf.training import methods
from robust_vit_hf.training.methods import METHODS, load_method

from ..helpers import reference
from ..helpers.tiny import ABLATIONS, CHECKPOINTING, ROOT, STILL, tensor_rows, tiny_config, tiny_vit


every_method = pytest.mark.parametrize("name", METHODS)
# Options under which a loss is exactly differentiable, and its terms are of one size.
EXACT = {
    "gradmask": {"background_weight": 1.0, "confidence_weight": 1.0},
    "rrr": {"background_weight": 0.01, "confidence_weight": 1.0},
    "robustvit": {"second_order": True},
    "cft": {"second_order": True},
    "energy": {"second_order": True},
}


def batch(count=3) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Pixels, masks with a fractional value, and targets, all in float64."""
    rows = tensor_rows(count)
    pixel_values, mask = (torch.stack([row[name] for row in rows]).double() for name in ("pixel_values", "mask"))
    original = torch.randn(count, 4, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([row["labels"] for row in rows])
    return pixel_values, mask, {"label": labels, "prediction": None, "original": original}


def losses(name, folder, model, pixel_values, mask, targets, **options):
    args = tiny_config(folder, method=name, **options)
    return load_method(name)(args).per_image(VisionTransformer(model), pixel_values, mask, targets)


@every_method
def test_each_method_has_a_config(name, tmp_path):
    """Which `RobustViTConfig` makes, and which tells what has an effect."""
    config = tiny_config(tmp_path, method=name)
    assert type(config) is load_method(name).config and config.method == name
    described = {option.replace(" ", "_") for option in config.describe()}
    assert not described & {*config.unused} and None not in config.describe().values()
    assert config.describe()["confidence weight"] == f"{config.confidence_weight:g}"


def test_a_method_is_added_by_a_class_and_a_line(tmp_path, monkeypatch):
    """The file and the line of `METHODS` that docs/contribute.md shows."""
    text = (ROOT / "docs" / "contribute.md").read_text().partition("## Add a method")[2].partition("\n## ")[0]
    code, line = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "area.py").write_text(code)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    for name, place in ast.literal_eval(f"{{{line}}}").items():
        monkeypatch.setitem(METHODS, name, place)
    config = tiny_config(tmp_path / "run", method="area", relevance_weight=0.5)
    assert config.confidence_target == "label"
    trainer = RobustViTTrainer(tiny_vit(**STILL), config, tensor_rows(8))
    trainer.train()
    areas = [entry["area_loss"] for entry in trainer.state.log_history if "area_loss" in entry]
    assert len(areas) == 2 and 0 < areas[1] < areas[0] < 1


@pytest.mark.parametrize(
    "released, edge, target", [(False, 0.25, "label"), (True, 0.25, "label"), (False, 0.75, "prediction")]
)
def test_input_gradients_against_a_slow_reference(released, edge, target, tmp_path):
    """Each class and image by itself: the scale of RRR is that of a sum over classes, channels and pixels."""
    model, (pixel_values, mask, targets) = tiny_vit().double(), batch()
    mask[:, :, 0] = 0.25
    options = {"released_gradients": released, "mask_edges": "fractional" if edge == 0.25 else "complement"}
    found = {
        name: losses(name, tmp_path, model, pixel_values, mask, targets, **options | more)[0]
        for name, more in {"gradmask": {"relevance_target": target}, "rrr": {}}.items()
    }
    mask[:, :, 0] = edge  # of the background
    for index in range(len(mask)):
        pixels = pixel_values[index : index + 1].clone().requires_grad_()
        logits = model(pixels).logits[0]
        explained = targets["label"][index] if target == "label" else logits.argmax()
        (of_label,) = torch.autograd.grad(logits[explained], pixels, retain_graph=True)
        of_classes = 0
        for log_probability in torch.log(torch.exp(logits) / torch.exp(logits).sum()):
            of_classes = of_classes + torch.autograd.grad(log_probability, pixels, retain_graph=True)[0]
        of_label, of_classes = (
            reference.pixel_gradient_losses(gradient[0].numpy(), mask[index, 0].numpy())
            for gradient in (of_label, of_classes)
        )
        expected = {
            "gradmask": of_label["gradmask released" if released else "gradmask"],
            "rrr": of_classes["rrr"] * (len(mask) if released else 1),
        }
        for name, value in expected.items():
            assert found[name]["background_loss"][index].item() == pytest.approx(value, rel=1e-6), name
            cross_entropy = -logits.log_softmax(0)[targets["label"][index]].item()
            assert found[name]["confidence_loss"][index].item() == pytest.approx(cross_entropy)
    # To the last digits, since the confidence loss of GradMask is a billionth of the other.
    for name, (background, confidence) in {"gradmask": (50, 3e-9), "rrr": (1e-10, 2e-6)}.items():
        parts = found[name]["background_loss"], found[name]["confidence_loss"]
        total = background * parts[0] + confidence * parts[1]
        torch.testing.assert_close(found[name]["loss"], total, rtol=1e-14, atol=0)


def test_energy_against_a_slow_reference(tmp_path):
    model, (pixel_values, mask, targets) = tiny_vit().double(), batch()
    mask[:, :, 0] = 0.25
    values, logits = losses("energy", tmp_path, model, pixel_values, mask, targets)
    relevance = relevance_map(model, pixel_values, targets["label"], normalize=False).relevance.detach().numpy()
    for index in range(len(mask)):
        expected = reference.energy(relevance[index, 0], mask[index, 0].numpy())
        assert values["energy_loss"][index].item() == pytest.approx(expected, rel=1e-9)
    cross_entropy = torch.nn.functional.cross_entropy(logits, targets["label"], reduction="none")
    torch.testing.assert_close(values["loss"], 0.8 * values["energy_loss"] + 0.2 * cross_entropy)


def test_energy_of_no_relevance(tmp_path):
    model = tiny_vit().double()
    torch.nn.init.zeros_(model.classifier.weight)  # no logit depends on any attention
    values, _ = losses("energy", tmp_path, model, *batch())
    assert torch.equal(values["energy_loss"], torch.zeros(3).double())
    values["loss"].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("options", [{}, {"mean_over": "image"}])
def test_cft_against_a_slow_reference(options, tmp_path):
    model, (pixel_values, mask, targets) = tiny_vit().double(), batch()
    values, logits = losses("cft", tmp_path, model, pixel_values, mask, targets, **options)
    relevance = relevance_map(model, pixel_values, targets["label"]).relevance.detach().numpy()
    for index in range(len(mask)):
        background, foreground = reference.cross_entropies(
            relevance[index, 0], mask[index, 0].numpy(), region=not options
        )
        assert values["background_loss"][index].item() == pytest.approx(background, rel=1e-3)
        assert values["foreground_loss"][index].item() == pytest.approx(foreground, rel=1e-3)
        confidence = -logits[index].log_softmax(0).max().item()
        expected = 0.8 * (1.2 * background + 0.5 * foreground) + 0.2 * confidence
        assert values["loss"][index].item() == pytest.approx(expected, rel=1e-3)


@every_method
def test_gradients_in_float64(name, tmp_path):
    """The gradient of the loss in weights of each kind, which goes through second derivatives of the model."""
    model, inputs = tiny_vit(hidden_size=12, intermediate_size=16).double(), batch(2)
    embeddings, (first, last) = model.vit.embeddings.patch_embeddings, model.vit.layers
    modules = (embeddings.projection, first.attention.q_proj, first.mlp.fc1, last.attention.v_proj, model.classifier)
    weights = [module._parameters.pop("weight").detach().requires_grad_() for module in modules]

    def loss(*weights):
        for module, weight in zip(modules, weights, strict=True):
            module.weight = weight
        return losses(name, tmp_path, model, *inputs, **EXACT.get(name, {}))[0]["loss"].sum()

    assert gradcheck(loss, weights, fast_mode=True)
    *_, head = torch.autograd.grad(loss(*weights), weights)
    assert head.abs().max() > 1e-4


@pytest.mark.parametrize("name", ["gradmask", "rrr"])
def test_the_background_loss_as_released_changes_no_weight(name, tmp_path):

    def trained(weight):
        options = {"background_weight": weight, "confidence_weight": 1.0, "released_gradients": True}
        trainer = RobustViTTrainer(tiny_vit(), tiny_config(tmp_path, method=name, **options), tensor_rows(8))
        trainer.train()
        return trainer.model.parameters()

    assert all(torch.equal(*pair) for pair in zip(trained(1.0), trained(5.0), strict=True))


@pytest.mark.parametrize(
    "name, second_order",
    [*((name, False) for name in ("gradmask", "rrr", "energy", "cft", "robustvit")), ("robustvit", True)],
)
def test_precision_and_checkpointing(name, second_order, tmp_path):
    """bf16 trains every parameter, and activation checkpointing changes nothing."""

    def trained(folder, **options):
        # AdamW would blow up gradients that are rounding alone to full steps.
        settings = EXACT[name] | {"second_order": second_order, "optim": "sgd", "learning_rate": 0.1}
        config = tiny_config(folder, method=name, **settings | options)
        trainer = RobustViTTrainer(tiny_vit(**STILL), config, tensor_rows(8))
        trainer.train()
        return trainer.model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    # In this order, since a process keeps the precision of its last Trainer.
    model, half = trained(tmp_path / "a", bf16=True)
    for (parameter, before), after in zip(tiny_vit(**STILL).named_parameters(), model.parameters(), strict=True):
        assert after.dtype == torch.float32
        assert not torch.equal(before, after) or parameter.endswith("k_proj.bias"), parameter
    plain, full = trained(tmp_path / "b")
    checkpointed, again = trained(tmp_path / "c", **{CHECKPOINTING: True})
    assert VisionTransformer(checkpointed).is_checkpointing
    assert half != full and half == pytest.approx(full, rel=0.2)
    assert again == pytest.approx(full, rel=1e-6)
    for (parameter, ours), theirs in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4, msg=parameter)


def test_each_ablation_gives_other_gradients(tmp_path):
    model, inputs = tiny_vit(num_hidden_layers=7).double(), batch()

    def gradient(options: dict) -> torch.Tensor:
        loss = losses("robustvit", tmp_path, model, *inputs, **options)[0]["loss"].sum()
        return torch.autograd.grad(loss, model.vit.layers[-1].attention.q_proj.weight)[0]

    full = gradient({})
    for name, options in ABLATIONS.items():
        assert not torch.allclose(gradient(options), full, rtol=1e-3, atol=0), name
    assert not tiny_config(tmp_path, **ABLATIONS["label-free"]).needs_labels
