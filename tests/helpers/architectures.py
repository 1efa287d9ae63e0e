"""Every architecture of the table in docs/architectures.md, as a tiny model with random weights."""

from dataclasses import dataclass
from functools import partial

import torch
from transformers import (
    PreTrainedModel,
    Siglip2Config,
    Siglip2ForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

from .families import FAMILIES, SIZES, Family, resolution, with_vision_config


CLS, MEAN = "CLS token", "patch mean"


@dataclass(frozen=True, kw_only=True)
class TimmFamily(Family):
    """A plain vision transformer of timm, by the name of an architecture whose sizes do not matter."""

    architecture: str
    model_class: type[PreTrainedModel] = TimmWrapperForImageClassification
    config_class: type = TimmWrapperConfig

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
        return f"timm's `{self.architecture}`"


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
    ("ViT with relative positions (timm)", "vit_relpos_small_patch16_224", MEAN, (), 1),
)
_OTHERS = (
    Family("SigLIP 2, NaFlex", Siglip2ForImageClassification, partial(with_vision_config, Siglip2Config), MEAN, (), 1),
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
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, args, output: attentions.append(output))
    return model(pixel_values).logits, attentions
