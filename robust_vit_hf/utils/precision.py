"""Precision of what is computed outside the model."""

import torch


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in fp32, or in fp64 if it has it, as derivatives are checked in fp64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
