"""Versions and hardware used for a result."""

import platform
from importlib.metadata import version

import torch


def environment() -> dict:
    """`versions` of Python and packages, and `hardware`, as JSON values."""
    names = ("robust-vit-hf", "torch", "transformers", "datasets", "accelerate")
    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "hardware": f"{device}, {threads} CPU thread{'s' if threads > 1 else ''}",
    }
