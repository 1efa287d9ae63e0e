"""Every architecture of the table in experiments/architectures.md, as a tiny model with random weights.

`FAMILIES` are plain vision transformers of transformers, `WITH_MAP` has those of timm too, and `WITHOUT_MAP` has the others.
"""

import inspect
from dataclasses import dataclass, field

import numpy as np
import torch
import transformers
from transformers import (
    PreTrainedModel,
    Siglip2ForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

from robust_vit_hf import DINOv3ViTForImageClassification
from robust_vit_hf.models.added_classifiers import CLIPZeroShotForImageClassification

from .tiny import ROOT, SIZES


NUM_PATCHES = 16
CLS, MEAN, BOTH = "CLS token", "patch mean", "CLS token and patch mean"  # what heads read


@dataclass(frozen=True)
class Family:
    """An architecture, by what its users call it."""

    name: str
    model_class: type[PreTrainedModel]
    reads: str  # what the head reads, in words
    prefix: tuple[float, ...]  # weights of the prefix tokens in what the head reads
    patches: float  # weight of the patches, which share it
    settings: dict = field(default_factory=dict)  # of the configuration

    def tiny(self, seed: int = 0, **overrides) -> PreTrainedModel:
        """Model with 2 layers for 32×32 images, patch 8, 4 classes, whose weights, biases included, are all random."""
        torch.manual_seed(seed)
        # The eager attention is chosen when the model is built alone in Data2VecVision; the others switch.
        eager = {"attn_implementation": "eager"} if "Data2Vec" in self.model_class.__name__ else {}
        sizes = SIZES | self.settings | overrides
        config_class = self.model_class.config_class
        if "vision_config" in config_class.sub_configs:  # of images and texts
            sizes = {"num_labels": sizes.pop("num_labels"), "vision_config": sizes}
        model = self.model_class._from_config(config_class(**sizes), **eager)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.numel() > 1 and parameter.std() == 0:  # biases, relative positions, layer scales
                    parameter.add_(0.2 * torch.randn_like(parameter))
        return model.eval()

    @property
    def written(self) -> str:
        """The class in Markdown."""
        return f"`{self.model_class.__name__}`"

    def read(self) -> np.ndarray:
        """Weights (T,) of the tokens that the head reads."""
        return np.array([*self.prefix, *[self.patches / NUM_PATCHES] * NUM_PATCHES])


def resolution(model: PreTrainedModel) -> dict[str, bool]:
    """Argument for another resolution than the model was built for; some adapt by themselves."""
    accepted = inspect.signature(getattr(model, "vision_model", model).forward).parameters
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}


_RELATIVE = {"use_relative_position_bias": True}
_FAMILIES = (
    Family("ViT", transformers.ViTForImageClassification, CLS, (1,), 0),
    Family("DeiT", transformers.DeiTForImageClassification, CLS, (1, 0), 0),
    Family(
        "DeiT, distilled",
        transformers.DeiTForImageClassificationWithTeacher,
        "CLS and distillation tokens",
        (0.5, 0.5),
        0,
    ),
    Family("ViTMSN", transformers.ViTMSNForImageClassification, CLS, (1,), 0),
    Family("Dinov2", transformers.Dinov2ForImageClassification, BOTH, (1,), 1),
    Family("Dinov2WithRegisters", transformers.Dinov2WithRegistersForImageClassification, BOTH, (1, 0, 0, 0, 0), 1),
    Family("DINOv3ViT", DINOv3ViTForImageClassification, BOTH, (1, 0, 0, 0, 0), 1, {"num_register_tokens": 4}),
    Family("BEiT", transformers.BeitForImageClassification, MEAN, (0,), 1, _RELATIVE),
    Family(
        "BEiT without mean pooling",
        transformers.BeitForImageClassification,
        CLS,
        (1,),
        0,
        {"use_mean_pooling": False},
    ),
    Family("Data2VecVision", transformers.Data2VecVisionForImageClassification, MEAN, (0,), 1, _RELATIVE),
    Family("IJepa", transformers.IJepaForImageClassification, MEAN, (), 1),
    Family("CLIP, zero-shot", CLIPZeroShotForImageClassification, CLS, (1,), 0, {"projection_dim": 16}),
    Family("CLIP", transformers.CLIPForImageClassification, MEAN, (0,), 1),
    Family("MetaCLIP 2", transformers.MetaClip2ForImageClassification, MEAN, (0,), 1),
    Family("SigLIP", transformers.SiglipForImageClassification, MEAN, (), 1),
)
FAMILIES = {family.name: family for family in _FAMILIES}


@dataclass(frozen=True, kw_only=True)
class TimmFamily(Family):
    """A plain vision transformer of timm, by the name of an architecture whose sizes do not matter."""

    architecture: str
    model_class: type[PreTrainedModel] = TimmWrapperForImageClassification

    def tiny(self, seed: int = 0, **overrides) -> PreTrainedModel:
        sizes = SIZES | self.settings | overrides
        arguments = {"embed_dim": sizes["hidden_size"], "depth": sizes["num_hidden_layers"], "mlp_ratio": 2}
        arguments |= {"num_heads": sizes["num_attention_heads"]}
        arguments |= {"img_size": sizes["image_size"], "patch_size": sizes["patch_size"]}
        config = TimmWrapperConfig(
            architecture=self.architecture, model_args=arguments, num_labels=sizes["num_labels"]
        )
        torch.manual_seed(seed)
        model = TimmWrapperForImageClassification(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=sizes["initializer_range"])
                else:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        return model.eval()

    @property
    def written(self) -> str:
        return f"`{self.architecture}`"


_TIMM = (
    ("ViT (timm)", "vit_tiny_patch16_224", CLS, (1,), 0),
    ("ViT with registers (timm)", "vit_little_patch16_reg4_gap_256", MEAN, (0,) * 4, 1),
    ("ViT of CLIP (timm)", "vit_base_patch16_clip_224", CLS, (1,), 0),
    ("DeiT, distilled (timm)", "deit_tiny_distilled_patch16_224", "CLS and distillation tokens", (0.5, 0.5), 0),
    ("DeiT III (timm)", "deit3_small_patch16_224", CLS, (1,), 0),
    ("BEiT (timm)", "beit_base_patch16_224", MEAN, (0,), 1),
    ("EVA-02 (timm)", "eva02_base_patch14_224", MEAN, (0,), 1),
    ("EVA-02 of CLIP (timm)", "eva02_base_patch16_clip_224", CLS, (1,), 0),
    ("ViT with RoPE (timm)", "vit_small_patch16_rope_mixed_224", CLS, (1,), 0),
    ("DINOv3 (timm)", "vit_small_patch16_dinov3", MEAN, (0,) * 5, 1),
    ("ViT with parallel MLPs (timm)", "vit_base_patch16_xp_224", CLS, (1,), 0),
    ("ViT with relative positions (timm)", "vit_relpos_small_patch16_224", MEAN, (), 1),
)
_OTHERS = (
    Family("SigLIP 2, NaFlex", Siglip2ForImageClassification, MEAN, (), 1),
    *(
        TimmFamily(name=name, architecture=of, reads=reads, prefix=prefix, patches=patches)
        for name, of, reads, prefix, patches in _TIMM
    ),
    TimmFamily(
        name="ViT after a CNN (timm)",
        architecture="vit_tiny_r_s16_p8_224",
        reads=CLS,
        prefix=(1,),
        patches=0,
        settings={"patch_size": 2},  # of features of 4 × 4 pixels
    ),
)
WITHOUT_LORA = ("BEiT (timm)",)  # their query, key and value are computed past adapters
WITH_MAP = FAMILIES | {family.name: family for family in _OTHERS}


def inputs_of(model: PreTrainedModel, pixel_values: torch.Tensor) -> dict[str, torch.Tensor | bool]:
    """Arguments of the model for images of any resolution. SigLIP 2 reads patches."""
    if isinstance(model, Siglip2ForImageClassification):
        patches = torch.stack([convert_image_to_patches(image, 8) for image in pixel_values])
        shape = [pixel_values.shape[2] // 8, pixel_values.shape[3] // 8]
        return {"pixel_values": patches, "spatial_shapes": torch.tensor([shape] * len(patches))}
    resized = pixel_values.shape[2] != pixel_values.shape[3]
    return {"pixel_values": pixel_values} | (resolution(model) if resized else {})


def explicit_attentions(model: PreTrainedModel, pixel_values: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits, and attentions as transformers returns them, or as timm's dropout of attentions gives them. Changes the model."""
    if not isinstance(model, TimmWrapperForImageClassification):
        model.set_attn_implementation("eager")
        output = model(**inputs_of(model, pixel_values), output_attentions=True)
        return output.logits, list(output.attentions)
    attentions: list[torch.Tensor] = []
    for block in model.timm_model.blocks:
        attention = getattr(block, "attn", block)
        attention.fused_attn = False
        attention.attn_drop.register_forward_hook(lambda module, args, output: attentions.append(output))
    return model(pixel_values).logits, attentions


def slow_map(model: PreTrainedModel, pixel_values: torch.Tensor, read: torch.Tensor, **graph) -> torch.Tensor:
    """Map of class 1, not normalised, over the whole matrix R of [`explicit_attentions`]; `graph` is that of their gradients."""
    logits, attentions = explicit_attentions(model, pixel_values)
    gradients = torch.autograd.grad(logits[:, 1].sum(), attentions, **graph)
    matrix = torch.eye(attentions[0].shape[-1])
    for attention, gradient in zip(attentions, gradients, strict=True):
        matrix = matrix + (attention * gradient).relu().mean(dim=1) @ matrix
    grid = (read @ matrix)[:, -NUM_PATCHES:].reshape(-1, 1, 4, 4)
    return torch.nn.functional.interpolate(grid, (32, 32), mode="bilinear")


@dataclass(frozen=True)
class WithoutMap:
    """A classifier that is no plain vision transformer: a name of transformers or timm, and settings for few weights."""

    architecture: str
    settings: dict
    of_timm: bool = False

    def tiny(self, seed: int = 0) -> PreTrainedModel:
        """Model for 32×32 images and 4 classes, with weights and batch norms that keep the scale of the features."""
        torch.manual_seed(seed)
        if self.of_timm:
            config = TimmWrapperConfig(architecture=self.architecture, model_args=self.settings, num_labels=4)
            model = TimmWrapperForImageClassification(config)
        else:
            model_class = getattr(transformers, self.written.strip("`"))
            model = model_class(model_class.config_class(**self.settings, num_labels=4))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
            norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
            for norm in norms:
                norm.momentum = 1.0
                norm.weight.fill_(1)
            if norms:
                model.train()(torch.randn(8, 3, 32, 32))
        return model.eval()

    @property
    def written(self) -> str:
        return f"`{self.architecture}`" if self.of_timm else f"`{self.architecture}ForImageClassification`"


_WINDOWS = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 12,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 4,
}
_STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4}
_HEADS = {"num_attention_heads": [1, 1, 2, 2]}
_OF_TRANSFORMERS = {
    "BiT": ("Bit", {"embedding_size": 8, "num_groups": 4} | _STAGES),
    "ConvNeXt": ("ConvNext", _STAGES),
    "ConvNeXt V2": ("ConvNextV2", _STAGES),
    "CvT": ("Cvt", {"embed_dim": [8] * 3, "num_heads": [1, 2, 2], "depth": [1, 2, 3]}),
    "Donut's Swin": ("DonutSwin", _WINDOWS),
    "EfficientNet": ("EfficientNet", {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128}),
    "FocalNet": ("FocalNet", {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "focal_levels": [1, 1]}),
    "HGNet V2": (
        "HGNetV2",
        {"embedding_size": 8, "stem_channels": [3, 8, 8], "stage_num_blocks": [1] * 4, "stage_numb_of_layers": [1] * 4}
        | {f"stage_{place}_channels": [8] * 4 for place in ("in", "mid", "out")}
        | {"hidden_sizes": [8] * 4, "depths": [1] * 4},
    ),
    "Hiera": (
        "Hiera",
        {"image_size": [32, 32], "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "num_query_pool": 1}
        | {"query_stride": [2, 2], "masked_unit_size": [4, 4]},
    ),
    "LeViT": (
        "Levit",
        {"image_size": 32, "hidden_sizes": [16] * 3, "num_attention_heads": [2] * 3, "depths": [1] * 3}
        | {"key_dim": [4] * 3},
    ),
    "MobileNet V1": ("MobileNetV1", {"depth_multiplier": 0.1}),
    "MobileNet V2": ("MobileNetV2", {"depth_multiplier": 0.1}),
    "MobileViT": (
        "MobileViT",
        {"image_size": 32, "hidden_sizes": [12, 12, 16], "neck_hidden_sizes": [4, 8, 8, 8, 8, 8, 16]},
    ),
    "MobileViT V2": (
        "MobileViTV2",
        {"image_size": 32, "width_multiplier": 0.1, "base_attn_unit_dims": [16] * 3, "n_attn_blocks": [1] * 3}
        | {"output_stride": 16},
    ),
    "PoolFormer": ("PoolFormer", _STAGES),
    "PP-LCNet": ("PPLCNet", {"scale": 0.1, "class_expand": 16}),
    "PVT": ("Pvt", {"image_size": 32} | _STAGES | _HEADS),
    "PVT V2": ("PvtV2", {"image_size": 32} | _STAGES | _HEADS),
    "RegNet": ("RegNet", {"embedding_size": 8, "groups_width": 8} | _STAGES),
    "ResNet": ("ResNet", {"embedding_size": 8} | _STAGES),
    "SegFormer": ("Segformer", {"decoder_hidden_size": 16} | _STAGES | _HEADS),
    "SwiftFormer": ("SwiftFormer", {"image_size": 32, "embed_dims": [8, 8, 16, 16], "depths": [1] * 4}),
    "Swin": ("Swin", _WINDOWS),
    "Swin V2": ("Swinv2", _WINDOWS),
    "TextNet": ("TextNet", {"image_size": [32, 32], "stem_out_channels": 8, "hidden_sizes": [8] * 5}),
}
PLAIN = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
_OF_TIMM = {
    "ByobNet": ("test_byobnet", {}),
    "ConvNeXt": ("test_convnext", {}),
    "EfficientNet": ("test_efficientnet", {}),
    "MambaOut": ("test_mambaout", {}),
    "NFNet": ("test_nfnet", {}),
    "ResNet": ("test_resnet", {}),
    "Swin": ("swin_tiny_patch4_window7_224", {"img_size": 32, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2]}),
    "ViT of SigLIP, pooled by attention": ("vit_base_patch16_siglip_224", PLAIN),
    "ViT with differences of attentions": ("vit_dwee_patch16_reg1_gap_256", PLAIN),
}
WITHOUT_MAP = {name: WithoutMap(*of) for name, of in _OF_TRANSFORMERS.items()}
WITHOUT_MAP |= {f"{name} (timm)": WithoutMap(*of, of_timm=True) for name, of in _OF_TIMM.items()}
# Those of which LoRA adapts the linear head alone.
HEADS_ALONE = (
    *"BiT,EfficientNet,HGNet V2,MobileNet V1,MobileNet V2,MobileViT V2,PoolFormer,PP-LCNet".split(","),
    *"RegNet,ResNet,TextNet,ByobNet (timm),EfficientNet (timm),NFNet (timm),ResNet (timm)".split(","),
)


def _titled(name: str, written: str) -> str:
    name, of, _ = name.partition(" (timm)")
    return f"{name} (timm's {written})" if of else f"{name} ({written})"


def table() -> str:
    """The table in experiments/architectures.md. A check is a test; – stands where a model has no map, or no adapters."""
    columns = ("architecture", "head reads", "diagnose", "swap", "relevance map", "relevance losses", "LoRA")
    rows = [columns, ("---", "---", *[":---:"] * 5)]
    for name, family in WITH_MAP.items():
        lora = "–" if name in WITHOUT_LORA else "✓"
        rows.append((_titled(name, family.written), family.reads, "✓", "✓", "✓", "✓", lora))
    for name, other in WITHOUT_MAP.items():
        lora = "head" if name in HEADS_ALONE else "✓"
        rows.append((_titled(name, other.written), "", "✓", "✓", "–", "–", lora))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    page = ROOT / "experiments" / "architectures.md"
    before, start, rest = page.read_text(encoding="utf-8").partition("| architecture |")
    page.write_text(before + table() + rest[rest.index("\n\n") :], encoding="utf-8")
