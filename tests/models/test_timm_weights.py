"""timm's weights in models of transformers: logits equal timm's, and what cannot be converted is refused by name."""

import pytest
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from transformers import DeiTForImageClassificationWithTeacher, ViTForImageClassification

from robust_vit_hf.data.classes import class_names
from robust_vit_hf.models.timm_format import hf_to_timm, timm_to_hf

from ..helpers.timm_models import HUB_CONFIG, assert_same_logits, assert_same_weights, timm_model, tiny
from ..helpers.tiny import tiny_vit


SMALL = [
    *("vit_tiny_patch16_224", "vit_tiny_patch16_384", "vit_small_patch8_224", "vit_small_patch32_224"),
    *("vit_base_patch16_224_miil", "deit_tiny_distilled_patch16_224"),  # MIIL's query, key and value have no bias
]


@pytest.mark.parametrize("name", SMALL)
def test_logits_of_every_variant(name):
    model = timm_model(name, num_classes=1000)
    converted = timm_to_hf(model.state_dict())
    size = int(name.removesuffix("_miil").rpartition("_")[2])
    expected = DeiTForImageClassificationWithTeacher if "distilled" in name else ViTForImageClassification
    assert type(converted) is expected and not converted.training
    config = converted.config
    assert (config.image_size, config.num_labels) == (size, 1000)
    assert (config.layer_norm_eps, config.hidden_act) == (1e-6, "gelu")
    assert config.num_attention_heads == model.blocks[0].attn.num_heads
    assert config.qkv_bias == (not name.endswith("miil"))
    assert all(parameter.requires_grad for parameter in converted.parameters())
    assert_same_logits(model, converted, size)


@pytest.mark.parametrize(
    ("name", "options", "num_heads"),
    [
        ("vit_tiny_patch16_224", {"img_size": 192, "num_classes": 3}, None),
        ("vit_tiny_patch16_224", {"img_size": 16, "num_classes": 2}, None),  # one patch
        ("vit_tiny_patch16_224", {"img_size": 32, "num_classes": 21843, "in_chans": 1}, None),
        ("vit_tiny_patch16_224", {"img_size": 42, "patch_size": 7, "qkv_bias": False, "num_classes": 1000}, None),
        ("vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 120, "depth": 2, "mlp_ratio": 2.5, "num_heads": 5}, 5),
        ("deit_tiny_distilled_patch16_224", {"img_size": 48, "depth": 3, "num_classes": 7}, 3),
    ],
)
def test_other_sizes(name, options, num_heads):
    model = timm_model(name, **options)
    converted = timm_to_hf(model.state_dict(), num_heads=num_heads)
    assert converted.config.num_labels == model.num_classes
    assert_same_logits(model, converted, options["img_size"], options.get("in_chans", 3), count=4)
    assert_same_weights(hf_to_timm(converted), model.state_dict())


@pytest.mark.parametrize("name, size", [("vit_tiny_patch16_224", 96), ("deit_tiny_distilled_patch16_224", 384)])
def test_another_resolution_as_timm_resamples(name, size):
    source = timm_model(name, num_classes=11)
    model = timm_model(name, num_classes=11, img_size=size)
    model.load_state_dict(checkpoint_filter_fn(source.state_dict(), model))
    converted = timm_to_hf(source.state_dict(), image_size=size)
    assert converted.config.image_size == size
    assert not torch.equal(model.pos_embed[:, :3], source.pos_embed[:, :3])
    assert_same_weights(hf_to_timm(converted), model.state_dict())
    assert_same_logits(model, converted, size)
    half = {name: tensor.half() for name, tensor in source.state_dict().items()}
    model = model.half()
    model.load_state_dict(checkpoint_filter_fn(half, model))
    assert_same_weights(hf_to_timm(timm_to_hf(half, image_size=size)), model.state_dict())


def test_weights_are_copied():
    weights = tiny().state_dict()
    converted = timm_to_hf(weights)
    back = hf_to_timm(converted)
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.zero_()
    assert all(tensor.abs().sum() > 0 for tensor in [*weights.values(), *back.values()])


def test_names_of_classes():
    config = timm_to_hf(tiny(num_classes=1000).state_dict()).config
    names = [config.id2label[index] for index in range(1000)]
    assert names[0] == "tench" and names[134] == "crane (n02012849)" and names[517] == "crane (n03126707)"
    assert [name.split(" (")[0] for name in names] == list(class_names())
    assert config.label2id == {name: index for index, name in enumerate(names)} and len(config.label2id) == 1000
    config = timm_to_hf(tiny().state_dict()).config
    assert config.id2label == {index: f"LABEL_{index}" for index in range(5)}
    config = timm_to_hf(tiny().state_dict(), HUB_CONFIG | {"label_names": list("abcde")}).config
    assert config.id2label == dict(enumerate("abcde"))


def test_missing_and_unexpected_names_in_one_error():
    weights = tiny().state_dict()
    for index in range(6):
        del weights[f"blocks.{index}.norm2.bias"]
    with pytest.raises(ValueError, match=r"6 are missing \(blocks.0.norm2.bias, .* and 1 unexpected \(extra\)"):
        timm_to_hf(weights | {"extra": torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deit3_small_patch16_224", {}, r"24 unexpected \(blocks.0.ls1.gamma.*save_for_hf"),
        ("vit_small_patch14_dinov2", {}, "2 are missing .*24 unexpected"),
        ("vit_base_patch16_224", {"global_pool": "avg"}, "2 unexpected .fc_norm"),
        ("vit_base_patch16_224", {"num_classes": 0}, r"2 are missing \(head.*--classes FILE"),
        ("swin_tiny_patch4_window7_224", {}, "Expected the weights of a plain ViT"),
    ],
)
def test_other_architectures(name, options, message):
    with torch.device("meta"):
        weights = timm.create_model(name, **options).state_dict()
    with pytest.raises(ValueError, match=message):
        timm_to_hf(weights)


def test_number_of_heads():
    # Hidden size 768 with 8 layers and MLP size 2304 had 8 heads, not 12.
    with torch.device("meta"):
        weights = timm.create_model("vit_base_patch16_224", depth=8, num_heads=8, mlp_ratio=3).state_dict()
    with pytest.raises(ValueError, match="--num_heads"):
        timm_to_hf(weights)
    with pytest.raises(RuntimeError):
        timm_to_hf(weights, num_heads=7)
    assert timm_to_hf(weights, num_heads=8).config.num_attention_heads == 8
    config = {"architecture": "vit_base_patch16_224", "model_args": {"num_heads": 16}}
    assert timm_to_hf(weights, config).config.num_attention_heads == 16
    for name in ("vit_large_patch16_224", "vit_huge_patch14_224"):
        with torch.device("meta"):
            weights = timm.create_model(name, num_classes=10).state_dict()
        assert timm_to_hf(weights).config.num_attention_heads == 16
        assert timm_to_hf(weights, {"model_args": {"num_heads": 8}}).config.num_attention_heads == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"global_pool": "avg"}, "global_pool"), ({"model_args": {"act_layer": "quick_gelu"}}, "act_layer")],
)
def test_what_only_the_configuration_shows(settings, message):
    """The names and shapes of these weights are those of a plain ViT."""
    with pytest.raises(ValueError, match=message):
        timm_to_hf(tiny().state_dict(), HUB_CONFIG | settings)
    timm_to_hf(tiny().state_dict(), HUB_CONFIG | {"model_args": {"img_size": 32, "drop_path_rate": 0.1}})


def test_models_of_transformers_that_timm_has_not():
    with pytest.raises(ValueError, match="`hidden_act` relu"):
        hf_to_timm(tiny_vit(hidden_act="relu"))
    model = tiny_vit()
    model.add_module("adapter", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="2 unexpected"):
        hf_to_timm(model)


def test_another_epsilon_gets_a_warning(caplog):
    hf_to_timm(tiny_vit(layer_norm_eps=1e-6))
    assert not caplog.text
    hf_to_timm(tiny_vit(layer_norm_eps=1e-12))
    assert "`layer_norm_eps` is 1e-12, but 1e-06 in timm" in caplog.text
