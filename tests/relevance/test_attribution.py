"""Attribution methods by name: independent slow references, and what must not matter or change."""

import copy

import pytest
import torch

from robust_vit_hf.relevance.attribution import ATTRIBUTION_METHODS

from ..helpers import reference
from ..helpers.architectures import FAMILIES, explicit_attentions, resolution
from ..helpers.tiny import images, tiny_vit


# Whose layers `slow_legrad` builds.
LEGRAD_FAMILIES = ["ViT", "DeiT", "ViTMSN", "Dinov2", "Dinov2WithRegisters"]
CLASS_SPECIFIC = {"gae": True, "rollout": False, "last_layer": False, "input_gradient": True, "legrad": True}
DIFFERENTIABLE = {"gae": True, "rollout": True, "last_layer": True, "input_gradient": False, "legrad": True}


def expected_map(patches, grid, image_size):
    """Map (H, W) of the relevance of the patches, by the reference's upsampling with explicit loops."""
    pixels = reference.upsample(patches.double().reshape(grid).numpy(), *image_size)
    return torch.from_numpy((pixels - pixels.min()) / (pixels.max() - pixels.min())).float()


def legrad_scores(model, tokens):
    """What the head of each family gives to the output tokens `(1, T, D)` of any layer."""
    tokens = model.base_model.layernorm(tokens)
    if "Dinov2" not in type(model).__name__:
        return model.classifier(tokens[:, 0])
    num_prefix_tokens = 1 + getattr(model.config, "num_register_tokens", 0)
    return model.classifier(torch.cat([tokens[:, 0], tokens[:, num_prefix_tokens:].mean(dim=1)], dim=1))


def slow_legrad(model, pixel_values, target, num_patches, **kwargs):
    """Relevance `(h·w,)` of the patches of one image `(1, 3, H, W)`, layer by layer.

    Each layer starts from detached tokens and an attention that is a leaf, so nothing else can reach the gradient.
    """
    embeddings = []
    hook = model.base_model.embeddings.register_forward_hook(lambda module, args, output: embeddings.append(output))
    model(pixel_values, **kwargs)
    hook.remove()
    tokens, total = embeddings[0].detach(), 0
    dinov2 = "Dinov2" in type(model).__name__
    layers = model.base_model.encoder.layer if dinov2 else model.base_model.layers
    for layer in layers:
        norms = (layer.norm1, layer.norm2) if dinov2 else (layer.layernorm_before, layer.layernorm_after)
        scales = (layer.layer_scale1, layer.layer_scale2) if dinov2 else (torch.nn.Identity(),) * 2
        normed, num_heads = norms[0](tokens), model.config.num_attention_heads
        query, key, value = (
            getattr(layer.attention, name)(normed).unflatten(2, (num_heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        attention = torch.softmax(query @ key.transpose(2, 3) / query.shape[-1] ** 0.5, dim=-1)
        attention = attention.detach().requires_grad_()
        mixed = tokens + scales[0](layer.attention.o_proj((attention @ value).transpose(1, 2).flatten(2)))
        tokens = mixed + scales[1](layer.mlp(norms[1](mixed)))
        (gradient,) = torch.autograd.grad(legrad_scores(model, tokens)[0, target], attention)
        total = total + gradient[0].relu().mean(dim=0).mean(dim=0) / len(layers)  # over heads, over queries
        tokens = tokens.detach()
    torch.testing.assert_close(legrad_scores(model, tokens), model(pixel_values, **kwargs).logits)
    return total[-num_patches:]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("height, width", [(32, 32), (24, 40)])
def test_attention_methods_against_dense_matrices(family, height, width):
    model, pixel_values = FAMILIES[family].tiny(num_hidden_layers=3), images(2, height, width)
    grid = (height // 8, width // 8)
    with torch.no_grad():
        logits, attentions = explicit_attentions(copy.deepcopy(model), pixel_values)
    outputs = {name: ATTRIBUTION_METHODS[name](model, pixel_values) for name in ("rollout", "last_layer")}
    for index in range(2):
        product = torch.eye(attentions[0].shape[-1]).double()
        for attention in attentions:
            heads = attention[index].double()
            mixed = 0.5 * sum(heads) / len(heads) + 0.5 * torch.eye(len(product))
            product = mixed / mixed.sum(dim=1, keepdim=True) @ product
        read = torch.zeros(len(product)).double()
        read[: len(FAMILIES[family].prefix)] = torch.tensor(FAMILIES[family].prefix).double()
        read[-grid[0] * grid[1] :] += FAMILIES[family].patches / (grid[0] * grid[1])
        rows = {"rollout": read @ product, "last_layer": read @ attentions[-1][index].double().mean(dim=0)}
        for name, output in outputs.items():
            expected = expected_map(rows[name][-grid[0] * grid[1] :], grid, (height, width))
            torch.testing.assert_close(output.relevance[index, 0], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(output.logits, logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", LEGRAD_FAMILIES)
@pytest.mark.parametrize("height, width", [(32, 32), (24, 40)])
def test_legrad_layer_by_layer(family, height, width):
    model, pixel_values = FAMILIES[family].tiny(num_hidden_layers=3), images(2, height, width)
    grid, kwargs = (height // 8, width // 8), {} if height == width else resolution(model)
    output = ATTRIBUTION_METHODS["legrad"](model, pixel_values, torch.tensor([0, 2]))
    torch.testing.assert_close(output.logits, model(pixel_values, **kwargs).logits)
    for index, target in enumerate((0, 2)):
        patches = slow_legrad(model, pixel_values[index : index + 1], target, grid[0] * grid[1], **kwargs)
        expected = expected_map(patches, grid, (height, width))
        torch.testing.assert_close(output.relevance[index, 0], expected, atol=1e-4, rtol=1e-4)


def test_input_gradient_by_finite_differences():
    model, pixel_values = tiny_vit(image_size=16).double(), images(1, 16, 16).double()
    steps = 1e-5 * torch.eye(pixel_values.numel()).double().reshape(-1, 3, 16, 16)
    with torch.no_grad():
        up, down = (model(pixel_values + sign * steps).logits[:, 2] for sign in (1, -1))
    saliency = ((up - down) / 2e-5).abs().reshape(3, 16, 16).amax(dim=0)
    expected = (saliency - saliency.min()) / (saliency.max() - saliency.min())
    relevance = ATTRIBUTION_METHODS["input_gradient"](model, pixel_values, 2).relevance[0, 0]
    torch.testing.assert_close(relevance, expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", LEGRAD_FAMILIES)
def test_differentiable_exactly_where_marked(family):
    """The gradient of a loss on the map reaches the attention of a method that is marked, and no other map has a graph."""
    for name, method in ATTRIBUTION_METHODS.items():
        model = FAMILIES[family].tiny()
        output = method(model, images(3), 1)
        assert output.relevance.requires_grad is output.logits.requires_grad is DIFFERENTIABLE[name], name
        if DIFFERENTIABLE[name]:
            output.relevance.square().mean().backward()
            layer = [module for module in model.modules() if hasattr(module, "q_proj")][-1]
            assert layer.q_proj.weight.grad.abs().max() > 0, name


@pytest.mark.parametrize("name", ATTRIBUTION_METHODS)
def test_targets(name):
    model, pixel_values, method = tiny_vit(), images(3), ATTRIBUTION_METHODS[name]
    predicted = model(pixel_values).logits.argmax(dim=1)
    default, of_predicted, one, two = (
        method(model, pixel_values, target).relevance for target in (None, predicted, 1, 2)
    )
    assert torch.equal(default, of_predicted)
    assert torch.equal(one, two) is not CLASS_SPECIFIC[name]
    if CLASS_SPECIFIC[name]:
        with pytest.raises(ValueError, match="Expected `target`"):
            method(model, pixel_values, 4)


@pytest.mark.parametrize("name", ATTRIBUTION_METHODS)
@pytest.mark.parametrize("height, width", [(32, 32), (48, 24)])
def test_batch_equals_single_images(name, height, width):
    model, pixel_values, target = tiny_vit(), images(3, height, width), torch.tensor([0, 1, 2])
    batch = ATTRIBUTION_METHODS[name](model, pixel_values, target)
    assert batch.relevance.shape == (3, 1, height, width) and batch.relevance.dtype == torch.float32
    for index in range(3):
        single = ATTRIBUTION_METHODS[name](model, pixel_values[index : index + 1], target[index : index + 1])
        torch.testing.assert_close(batch.relevance[index], single.relevance[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(batch.logits[index], single.logits[0])


@pytest.mark.parametrize("name", ATTRIBUTION_METHODS)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients(name, context):
    model, method = tiny_vit(), ATTRIBUTION_METHODS[name]
    with context():
        pixel_values = images(3)  # made in inference mode, it must serve outside as well
        output = method(model, pixel_values, 1)
    assert not output.relevance.requires_grad and not output.logits.requires_grad
    for requires_grad in (True, False):
        expected = method(model.requires_grad_(requires_grad), pixel_values, 1).relevance
        torch.testing.assert_close(output.relevance, expected)


@pytest.mark.parametrize("name", ATTRIBUTION_METHODS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_nothing_about_the_model_is_left_changed(name, implementation):
    model, method, pixel_values = tiny_vit().train(), ATTRIBUTION_METHODS[name], images(3)
    model(pixel_values, output_attentions=True)  # for which transformers adds hooks that stay
    model.set_attn_implementation(implementation)
    hooks = {module: (len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}

    def check():
        assert model.config._attn_implementation == implementation
        assert model.training and not pixel_values.requires_grad
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
        assert hooks == {m: (len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()}
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())

    method(model, pixel_values, 1)
    check()
    with pytest.raises((RuntimeError, ValueError)):  # an error inside the forward pass: two channels
        method(model, pixel_values[:, :2])
    check()


@pytest.mark.parametrize("name", ["rollout", "last_layer"])
def test_what_follows_the_attentions_is_in_fp32_under_autocast(name):
    model, pixel_values = tiny_vit(), images(1)
    model.set_attn_implementation("eager")
    with torch.autocast("cpu", torch.bfloat16):
        attentions = model(pixel_values, output_attentions=True).attentions
        relevance = ATTRIBUTION_METHODS[name](model, pixel_values).relevance[0, 0]
    first, second = (attention[0].float().mean(dim=0) for attention in attentions)
    tokens = second if name == "last_layer" else (torch.eye(17) + second) @ (torch.eye(17) + first)
    expected = expected_map(tokens[0, 1:].detach(), (4, 4), (32, 32))
    torch.testing.assert_close(relevance, expected, atol=1e-5, rtol=1e-5)


def test_legrad_needs_a_final_norm_of_the_last_layer():
    model = tiny_vit()
    model.vit.layernorm.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    with pytest.raises(ValueError, match="LeGrad needs a final norm"):
        ATTRIBUTION_METHODS["legrad"](model, images(3))
