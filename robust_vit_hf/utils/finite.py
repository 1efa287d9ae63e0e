"""Checks for NaN and infinite values."""

import torch
from torch import nn


class NonFiniteError(ValueError):
    """Some images of a batch have NaN or infinite values.

    Args:
        values: name of the values.
        images: indices of these images in the batch.
    """

    def __init__(self, values: str, images: list[int]):
        super().__init__(
            f"The {values} of image {', '.join(map(str, images))} of the batch is NaN or infinite. Look at the image and at "
            "the model's weights; in half precision, try float32."
        )
        self.values = values
        self.images = images


def check_finite(name: str, values: torch.Tensor) -> None:
    """Check values `(B, …)` of a batch; `name` is their name in errors.

    Raises:
        NonFiniteError: some are NaN or infinite.
    """
    finite = values.detach().isfinite().flatten(1).all(dim=1) if values.dim() > 1 else values.detach().isfinite()
    if not finite.all():
        raise NonFiniteError(name, (~finite).nonzero().flatten().tolist())


def non_finite_weights(model: nn.Module) -> list[str]:
    """Names of parameters and buffers with NaN or infinite values."""
    tensors = model.state_dict().items()
    return [name for name, tensor in tensors if tensor.is_floating_point() and not tensor.isfinite().all()]
