"""Precision of computations outside the model."""

import torch


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Convert a tensor to fp32; fp64 is kept, for checks of derivatives."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
