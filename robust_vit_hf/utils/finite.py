"""Values that are NaN or infinite."""

import torch
from torch import nn


class NonFiniteError(ValueError):
    """Values of some images of a batch are NaN or infinite.

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
    """Check values `(B, …)` of a batch, which errors call `name`.

    Raises:
        NonFiniteError: some are NaN or infinite.
    """
    finite = values.detach().isfinite().flatten(1).all(dim=1) if values.dim() > 1 else values.detach().isfinite()
    if not finite.all():
        raise NonFiniteError(name, (~finite).nonzero().flatten().tolist())


def non_finite_weights(model: nn.Module) -> list[str]:
    """Names of the parameters and buffers that have a NaN or infinite value."""
    tensors = model.state_dict().items()
    return [name for name, tensor in tensors if tensor.is_floating_point() and not tensor.isfinite().all()]
