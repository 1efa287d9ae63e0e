"""Every architecture with a map: the tokens that its head reads, its map, its gradients, and its finetuning."""

import copy

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel

from robust_vit_hf import DINOv3ViTForImageClassification, RobustViTTrainer, relevance_map
from robust_vit_hf.relevance.attribution import ATTRIBUTION_METHODS

from ..helpers import reference
from ..helpers.architectures import (
    FAMILIES,
    NUM_PATCHES,
    WITH_MAP,
    WITHOUT_LORA,
    TimmFamily,
    explicit_attentions,
    inputs_of,
    slow_map,
)
from ..helpers.tiny import SIZES, images, tensor_rows, tiny_config, tiny_vit


# Modules of the pretraining through which the classifier does not pass.
UNREAD = dict.fromkeys(("CLIP", "MetaCLIP 2"), "vision_model.post_layernorm")
UNREAD |= dict.fromkeys(("SigLIP", "SigLIP 2, NaFlex"), "vision_model.head")

every_family = pytest.mark.parametrize("family", WITH_MAP.values(), ids=WITH_MAP)
# Most of timm's are trained in the slow suite.
FAST = {*FAMILIES, "SigLIP 2, NaFlex", "ViT (timm)", "BEiT (timm)", "EVA-02 (timm)"}
trained_family = pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=() if name in FAST else pytest.mark.slow) for name, family in WITH_MAP.items()],
    ids=WITH_MAP,
)


def final_norm(model):
    """The last module over all tokens. CLIP normalises the CLS token alone."""
    if hasattr(model, "timm_model"):
        return model.timm_model.norm
    if model.config.model_type == "clip_vision_model":
        return model.base_model.encoder.layers[-1]
    if hasattr(model, "vision_model"):
        is_siglip = "Siglip" in type(model).__name__
        return model.vision_model.post_layernorm if is_siglip else model.vision_model.encoder.layers[-1]
    return getattr(model.base_model, "layernorm", None) or model.base_model.norm


@every_family
def test_head_reads(family):
    """The logits have a gradient in the tokens that the map starts from, and in no other."""
    model, leaves = family.tiny(), []

    def cut(module, args, output):
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    final_norm(model).register_forward_hook(cut)
    logits = model(**inputs_of(model, images())).logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), leaves)
    assert gradient.shape[1] == len(family.prefix) + NUM_PATCHES
    assert (gradient.abs().amax(dim=(0, 2)) > 0).tolist() == (family.read() > 0).tolist()


@every_family
@pytest.mark.parametrize("height, width", [(32, 32), (32, 48)])
def test_map(family, height, width):
    """The map and the logits, by the attentions that transformers returns, or timm computes, and an independent slow reference."""
    # timm's models have one resolution.
    model = family.tiny(image_size=(height, width)) if isinstance(family, TimmFamily) else family.tiny()
    pixel_values, target = images(2, height, width), torch.tensor([0, 2])
    logits, attentions = explicit_attentions(copy.deepcopy(model), pixel_values)
    gradients = torch.autograd.grad(logits.gather(1, target.unsqueeze(1)).sum(), attentions)
    output = relevance_map(model, pixel_values, target)
    torch.testing.assert_close(output.logits, logits, atol=1e-5, rtol=1e-5)
    num_patches = height * width // 64
    read = torch.tensor(family.read())
    read = torch.cat([read[: len(family.prefix)], torch.full((num_patches,), family.patches / num_patches)]).numpy()
    for index in range(2):
        slow = reference.relevance_map(
            [attention[index].detach().numpy() for attention in attentions],
            [gradient[index].numpy() for gradient in gradients],
            (height // 8, width // 8),
            (height, width),
            read,
        )
        torch.testing.assert_close(output.relevance[index, 0], torch.from_numpy(slow).float(), atol=1e-4, rtol=1e-4)


@every_family
def test_gradient(family):
    """Gradient of a loss on the map in every weight, against the whole matrix R over the returned attentions."""
    model, eager, pixel_values = family.tiny(), family.tiny(), images()
    relevance_map(model, pixel_values, 1).relevance.square().mean().backward()

    grid = slow_map(eager, pixel_values, torch.tensor(family.read()).float(), retain_graph=True)
    low, high = grid.amin(dim=(1, 2, 3), keepdim=True), grid.amax(dim=(1, 2, 3), keepdim=True)
    ((grid - low) / (high - low)).square().mean().backward()

    moved = 0
    for (name, parameter), other in zip(model.named_parameters(), eager.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None), name
        if other.grad is not None:
            torch.testing.assert_close(parameter.grad, other.grad, atol=1e-6, rtol=1e-3, msg=lambda m, n=name: n + m)
            moved += int(other.grad.abs().max() > 1e-5)
    assert moved > 10


@every_family
def test_attribution_methods(family):
    """Every attribution method gives a map that is not flat, and the model's own logits."""
    model, pixel_values = family.tiny(), images()
    with torch.no_grad():
        expected = model(**inputs_of(model, pixel_values)).logits
        for name, method in ATTRIBUTION_METHODS.items():
            output = method(model, pixel_values, 1)
            torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-5)
            assert output.relevance.amin(dim=(1, 2, 3)).tolist() == [0] * 2, name
            torch.testing.assert_close(output.relevance.amax(dim=(1, 2, 3)), torch.ones(2))


@trained_family
def test_training(family, tmp_path, processor):
    """Every weight moves, the loss falls, and what is saved gives the same logits when it is loaded."""
    original, model = family.tiny(), family.tiny()
    config = tiny_config(
        tmp_path, num_train_epochs=12, learning_rate=3e-3, relevance_weight=1.0, confidence_weight=0.1
    )
    trainer = RobustViTTrainer(model, config, tensor_rows(8), processing_class=processor)
    trainer.train()
    losses = [entry["relevance_loss"] for entry in trainer.state.log_history if "relevance_loss" in entry]
    assert losses[-1] < 0.98 * losses[0]
    for (name, before), after in zip(original.named_parameters(), model.parameters(), strict=True):
        unread = name.endswith("mask_token") or name.startswith(UNREAD.get(family.name, "-"))  # of pretraining alone
        assert unread or not torch.equal(before, after), name
    trainer.save_model()
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is family.model_class
    inputs = inputs_of(model, images())
    torch.testing.assert_close(loaded(**inputs).logits, model.eval()(**inputs).logits, atol=1e-5, rtol=1e-5)


@trained_family
def test_lora(family, tmp_path, processor):
    """The adapter alone moves; saved, it gives the same logits on a fresh model, and merged as well."""
    base = family.tiny()
    adapter = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear")
    config = tiny_config(tmp_path, num_train_epochs=24, learning_rate=1e-2, confidence_weight=0.1)
    arguments = {"train_dataset": tensor_rows(8), "processing_class": processor, "peft_config": adapter}
    if family.name in WITHOUT_LORA:
        with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv` would have no effect"):
            RobustViTTrainer(family.tiny(), config, **arguments)
        return
    trainer = RobustViTTrainer(family.tiny(), config, **arguments)
    model = trainer.model
    frozen = {name: value.clone() for name, value in model.state_dict().items() if "lora_" not in name}
    trainer.train()
    losses = [entry["relevance_loss"] for entry in trainer.state.log_history if "relevance_loss" in entry]
    assert sum(losses[-2:]) < 0.98 * sum(losses[:2])  # of both batches
    for name, value in model.state_dict().items():
        assert "lora_" in name or torch.equal(value, frozen[name]), name
    trainer.save_model()
    assert not (tmp_path / "model.safetensors").exists()
    inputs = inputs_of(base, images())
    expected = model.eval()(**inputs).logits
    adapted = PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(adapted(**inputs).logits, expected)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(**inputs).logits, expected, atol=1e-4, rtol=1e-4)


def test_dinov3_from_a_backbone(tmp_path):
    """The weights of a backbone are taken, the head is new, and the automatic class finds both."""
    transformers.DINOv3ViTModel(FAMILIES["DINOv3ViT"].tiny().config).save_pretrained(tmp_path)
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=5)
    assert type(model) is DINOv3ViTForImageClassification and model.classifier.weight.shape == (5, 48)
    backbone = transformers.DINOv3ViTModel.from_pretrained(tmp_path)
    for (name, ours), theirs in zip(model.dinov3_vit.named_parameters(), backbone.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    labels = torch.tensor([1, 3])
    output = model(images(), labels=labels)
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))


def test_head_that_is_not_known(monkeypatch):
    """A class of one's own is refused until it is said what its head reads."""
    own = type("OwnForImageClassification", (type(tiny_vit()),), {})
    model = own(tiny_vit().config).eval()
    with pytest.raises(ValueError, match=r"which tokens the classification head of `OwnForImageClassification` reads"):
        relevance_map(model, images())
    from robust_vit_hf.relevance import architectures

    monkeypatch.setitem(architectures.HEADS, "OwnForImageClassification", architectures.CLS)
    relevance = relevance_map(model, images(), 1).relevance
    theirs = tiny_vit()
    theirs.load_state_dict(model.state_dict())
    torch.testing.assert_close(relevance, relevance_map(theirs, images(), 1).relevance)


def test_data2vec_needs_eager():
    model = transformers.Data2VecVisionForImageClassification(transformers.Data2VecVisionConfig(**SIZES))
    with pytest.raises(ValueError, match=r'cannot switch from `sdpa`.*attn_implementation="eager"'):
        relevance_map(model, images())
