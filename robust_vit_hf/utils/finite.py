"""Checks for NaN and infinite values."""

import torch
from torch import nn


def check_finite(name: str, values: torch.Tensor) -> None:
    """Refuse NaN and infinite values `(B, …)` of a batch; `name` is their name in errors."""
    finite = values.detach().isfinite().flatten(1).all(dim=1) if values.dim() > 1 else values.detach().isfinite()
    if not finite.all():
        images = ", ".join(map(str, (~finite).nonzero().flatten().tolist()))
        raise ValueError(
            f"The {name} of image {images} of the batch is NaN or infinite. Look at the image and at the model's weights; in half "
            "precision, try float32."
        )


def non_finite_weights(model: nn.Module) -> list[str]:
    """Names of parameters and buffers with NaN or infinite values."""
    tensors = model.state_dict().items()
    return [name for name, tensor in tensors if tensor.is_floating_point() and not tensor.isfinite().all()]
