"""Models of timm with random weights for tests, and what their conversions are held against."""

import json
from functools import cache
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file


@cache
def noise() -> torch.Tensor:
    return torch.randn(6_000_000, generator=torch.Generator().manual_seed(0))


def timm_model(name: str, seed: int = 0, **options) -> torch.nn.Module:
    """Model of timm with every weight at random, none left at 0 or 1, and logits of about 1."""
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # A window of one draw, since to draw the 300 million weights of ViT-L takes longer than to convert them.
            start = torch.randint(len(noise()) - parameter.numel(), (1,), generator=generator)
            parameter.copy_(noise()[start : start + parameter.numel()].view_as(parameter))
            if parameter.ndim in (2, 4):
                parameter.mul_(parameter[0].numel() ** -0.5)
            elif "norm" in parameter_name and parameter_name.endswith("weight"):
                parameter.mul_(0.2).add_(1)
            else:
                parameter.mul_(0.5)
    return model


def tiny(seed: int = 0, name: str = "vit_tiny_patch16_224", **options) -> torch.nn.Module:
    return timm_model(name, seed, **{"img_size": 32, "num_classes": 5} | options)


def images(size: int, channels: int = 3, count: int = 1) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same_logits(model, converted, size: int, channels: int = 3, count: int = 1) -> None:
    pixels = images(size, channels, count)
    expected = model(pixels)
    assert 0.3 < expected.std() < 3
    torch.testing.assert_close(converted(pixels).logits, expected, rtol=0, atol=1e-5)


def assert_same_weights(weights, expected) -> None:
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert weights[name].dtype == tensor.dtype, name
        assert torch.equal(weights[name], tensor), name


def saved_in(folder: Path, model, config: dict | None = None, dtype=torch.float32) -> Path:
    """A folder as a snapshot from the Hub has it."""
    folder.mkdir()
    save_file({name: tensor.to(dtype) for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


HUB_CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 5,
    "global_pool": "token",
    "pretrained_cfg": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_size": [3, 32, 32]},
}
