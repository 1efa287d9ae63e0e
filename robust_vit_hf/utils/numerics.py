"""Checks for NaN and infinite values, and the precision of computations outside the model."""

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


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Convert a tensor to fp32; fp64 is kept, for checks of derivatives."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
