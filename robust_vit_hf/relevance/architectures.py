"""What the package knows of a model: [`ImageModel`] for forward passes, [`VisionTransformer`] for relevance maps."""

from collections.abc import Callable
from functools import partial
from inspect import ismethod, signature
from typing import Any, NamedTuple

import torch
from accelerate.utils.operations import ConvertOutputsToFp32
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput, logging

from .hooks import hooks_of_this_thread


logger = logging.get_logger(__name__)


class TokenWeights(NamedTuple):
    """Weights with which a classification head reads the tokens of the last layer.

    Args:
        prefix: weights of the first prefix tokens. Further prefix tokens have weight 0.
        patches: weight of all patches together, each an equal part.
    """

    prefix: tuple[float, ...]
    patches: float


CLS = TokenWeights((1.0,), 0.0)
CLS_AND_DISTILLATION = TokenWeights((0.5, 0.5), 0.0)  # each token has a head, and the logits are their mean
CLS_AND_PATCH_MEAN = TokenWeights((1.0,), 1.0)
PATCH_MEAN = TokenWeights((), 1.0)

# Tokens that the head reads, by model class. With `config.use_mean_pooling`, it reads the mean of the patches instead.
HEADS: dict[str, TokenWeights] = {
    "ViTForImageClassification": CLS,
    "ViTMSNForImageClassification": CLS,
    "DeiTForImageClassification": CLS,
    "DeiTForImageClassificationWithTeacher": CLS_AND_DISTILLATION,
    "Dinov2ForImageClassification": CLS_AND_PATCH_MEAN,
    "Dinov2WithRegistersForImageClassification": CLS_AND_PATCH_MEAN,
    "DINOv3ViTForImageClassification": CLS_AND_PATCH_MEAN,
    "BeitForImageClassification": CLS,
    "Data2VecVisionForImageClassification": CLS,
    "IJepaForImageClassification": PATCH_MEAN,
    "CLIPZeroShotForImageClassification": CLS,
    "CLIPForImageClassification": PATCH_MEAN,
    "MetaClip2ForImageClassification": PATCH_MEAN,
    "SiglipForImageClassification": PATCH_MEAN,
    "Siglip2ForImageClassification": PATCH_MEAN,
}
# In timm: classes of plain vision transformers, classes of attentions with one softmax, and tokens read by `global_pool`.
TIMM_PLAIN = ("Beit", "Eva", "VisionTransformer", "VisionTransformerDistilled", "VisionTransformerRelPos")
TIMM_ATTENTIONS = ("Attention", "AttentionRope", "EvaAttention", "ParallelScalingBlock", "RelPosAttention")
TIMM_POOLING = {"token": CLS, "avg": PATCH_MEAN}
SUPPORTED = (
    "Relevance maps are for plain vision transformers: ViT, DeiT, ViTMSN, Dinov2, Dinov2WithRegisters, DINOv3ViT, BEiT, "
    "Data2VecVision, IJepa, CLIP, MetaCLIP 2, SigLIP, SigLIP 2, those of timm (ViT, EVA-02, …), and CLIP with a zero-shot head from "
    "`robust-vit convert`. `robust-vit diagnose`, `improve`, `evaluate`, `interpolate` and `app` take any image classifier."
)
# Attention classes of models for which transformers does not declare what to record for `output_attentions=True`.
UNRECORDED_ATTENTION = {"Data2VecVisionForImageClassification": "Data2VecVisionAttention"}


class NoRelevanceMap(ValueError):
    """No relevance map can be computed for a model. `reason` says why, and `advice` what to do, each in a sentence."""

    def __init__(self, reason: str, advice: str = ""):
        super().__init__(f"{reason} {SUPPORTED} {advice}".strip())
        self.reason = reason


def unwrap_pretrained(model: nn.Module) -> PreTrainedModel:
    """The model of transformers in `model`, which DDP, PEFT or Accelerate may wrap."""
    if isinstance(model, nn.DataParallel):  # its attentions would be on different devices
        raise ValueError("`nn.DataParallel` is not supported. Use `accelerate launch`, with a process for each GPU.")
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise ValueError(f"Expected a model of transformers, possibly wrapped, but got a `{type(model).__name__}`.")


def forward_without_copies(model: nn.Module) -> Callable[..., ModelOutput]:
    """Forward pass of a model, in the autocast of Accelerate. DDP and Accelerate would return copies of attentions, which are
    outside the graph of the logits. DDP raises a `ValueError` in training."""
    if isinstance(model, DistributedDataParallel):
        if model.training:
            raise ValueError(
                "DDP synchronises only the gradients of its own forward pass. To train on maps, compute them in the `forward` of the "
                "module that DDP wraps. Otherwise, call `eval()` first."
            )
        model = model.module
    converted = getattr(model.forward, "__wrapped__", None)
    if not isinstance(converted, ConvertOutputsToFp32):
        return model
    forward = converted.model_forward
    return partial(forward, model) if ismethod(model.forward) else forward


class ImageModel:
    """Any image classifier of transformers.

    Args:
        model: the classifier, possibly wrapped (DDP, PEFT, Accelerate); or another `ImageModel`.
        forward: what a forward pass calls, with `pixel_values` and options as keywords; by default `model`. Within a `forward` of
            the model itself, it must be the original one.
    """

    def __init__(self, model: "nn.Module | ImageModel", forward: Callable[..., ModelOutput] | None = None):
        if isinstance(model, ImageModel):
            model, forward = model.model, model.forward
        self.model, self.forward = model, forward
        self.pretrained = unwrap_pretrained(model)
        self.name = type(self.pretrained).__name__.removeprefix("FSDP")  # the class of a sharded model has this prefix
        if self.timm_model is not None:
            self.name = self.pretrained.config.architecture

    @property
    def vision_config(self) -> PreTrainedConfig:
        """Configuration of the image encoder. In image–text models, it is a part of the configuration of the model."""
        return getattr(self.pretrained.config, "vision_config", None) or self.pretrained.config

    @property
    def is_checkpointing(self) -> bool:
        """Whether activation checkpointing is on, by the flags that transformers 5 or timm set in the model."""
        flags = ("gradient_checkpointing", "grad_checkpointing")
        return any(getattr(module, flag, False) for module in self.pretrained.modules() for flag in flags)

    @property
    def timm_model(self) -> nn.Module | None:
        """The model of timm that the model of transformers wraps, if it does."""
        return getattr(self.pretrained, "timm_model", None)

    @property
    def encoder(self) -> nn.Module:
        """The model below the classification head. Of image–text models, the image encoder."""
        return getattr(self.pretrained, "vision_model", self.pretrained.base_model)

    @property
    def attention(self) -> str:
        """Name of the attention implementation, which can be set. For timm, `sdpa`, or `eager`, which computes probabilities."""
        if self.timm_model is None:
            return self.encoder.config._attn_implementation
        fused = any(getattr(module, "fused_attn", False) for module in self.timm_model.modules())
        return "sdpa" if fused else "eager"

    @attention.setter
    def attention(self, implementation: str) -> None:
        if self.timm_model is None:
            self.encoder.set_attn_implementation(implementation)
            return
        for module in self.timm_model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = implementation == "sdpa"

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        if self.timm_model is not None:
            return self.timm_model.patch_embed.feat_ratio(as_scalar=False)  # also right for patches of CNN features
        size = self.vision_config.patch_size
        return (size, size) if isinstance(size, int) else tuple(size)

    def patch_grid(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """Number of patches `(h, w)` of images `(B, 3, H, W)`, whose sides must be multiples of the patch size."""
        sides, patch = tuple(pixel_values.shape[2:]), self.patch_size
        if len(sides) != 2 or sides[0] % patch[0] or sides[1] % patch[1]:
            raise ValueError(
                f"The image size {'×'.join(map(str, sides))} is not divisible by the patch size {patch[0]}×{patch[1]}. Expected "
                "`pixel_values` of shape (B, 3, H, W), where H and W are multiples of the patch size."
            )
        return sides[0] // patch[0], sides[1] // patch[1]

    def forward_arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """Arguments that some models need for images of `(H, W)` pixels."""
        takers = self.pretrained, self.encoder  # CLIP passes its arguments on to the encoder
        if any("interpolate_pos_encoding" in signature(type(taker).forward).parameters for taker in takers):
            size = self.vision_config.image_size
            if image_size != ((size, size) if isinstance(size, int) else tuple(size)):
                return {"interpolate_pos_encoding": True}
        return {}

    def __call__(self, pixel_values: torch.Tensor, output_attentions: bool = False) -> ModelOutput:
        """Output of the model, with `logits` `(B, C)`, for images `(B, 3, H, W)` of any size that is a multiple of the patch size.
        Raises a `ValueError` if the model has no head."""
        if pixel_values.is_inference() and torch.is_grad_enabled():
            pixel_values = pixel_values.clone()  # inference tensors cannot be saved for backward
        arguments = self.forward_arguments(size := tuple(pixel_values.shape[2:]))
        if arguments:
            made = self.vision_config.image_size
            logger.warning_once(
                f"The model was made for images of {made} pixels: for {size}, position embeddings are resized."
            )
        if self.name == "Siglip2ForImageClassification":  # this model reads rows of patches
            grid, (height, width) = self.patch_grid(pixel_values), self.patch_size
            patches = pixel_values.unflatten(3, (grid[1], width)).unflatten(2, (grid[0], height))
            pixel_values = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
            arguments["spatial_shapes"] = torch.tensor([grid] * len(patches), device=patches.device)
        arguments |= {"output_attentions": True} if output_attentions else {}
        forward = self.forward or (forward_without_copies(self.model) if output_attentions else self.model)
        output = forward(pixel_values=pixel_values, **arguments)
        if "logits" not in output:
            output["logits"] = output.last_hidden_state  # their name in PP-LCNet
        if output.logits.ndim != 2:
            raise ValueError(f"A `{self.name}` has no head for classes: give a model with a trained head.")
        return output

    def logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits `(B, C)` of images `(B, 3, H, W)`, see [`__call__`]."""
        return self(pixel_values).logits


class VisionTransformer(ImageModel):
    """A plain vision transformer, with what relevance maps need of it. Other models raise [`NoRelevanceMap`].

    Attributes:
        attentions: attention modules, first layer first.
        head: weights with which the classification head reads the tokens.
    """

    def __init__(self, model: nn.Module | ImageModel, forward: Callable[..., ModelOutput] | None = None):
        super().__init__(model, forward)
        of_timm, config, name = self.timm_model is not None, self.vision_config, self.name
        self.attentions = self._attentions_of_timm() if of_timm else self._attentions_of_transformers()
        own_grid = of_timm or (hasattr(config, "patch_size") and not hasattr(config, "window_size"))
        num_layers = getattr(config, "num_hidden_layers", len(self.attentions))
        if not self.attentions or len(self.attentions) != num_layers or not own_grid:
            reason = f"`{name}` does not have one attention over one patch grid in each of its layers, so it has no relevance map."
            raise NoRelevanceMap(getattr(self.pretrained, "NO_MAP", reason))
        head = HEADS.get(name) or (self._head_of_timm() if of_timm else None)
        if head is None:
            raise NoRelevanceMap(
                f"It is not known which tokens the classification head of `{name}` reads, so it has no relevance map.",
                "For your own head, register the tokens that it reads: "
                f'`robust_vit_hf.relevance.architectures.HEADS["{name}"] = CLS` (or `PATCH_MEAN`, `CLS_AND_PATCH_MEAN`).',
            )
        self.head = PATCH_MEAN if getattr(config, "use_mean_pooling", False) else head

    def _attentions_of_transformers(self) -> list[nn.Module]:
        modules = list(self.pretrained.modules())
        recorded = [getattr(module, "_can_record_outputs", None) or {} for module in modules]
        types = tuple({outputs["attentions"] for outputs in recorded if isinstance(outputs.get("attentions"), type)})
        own = UNRECORDED_ATTENTION.get(self.name)
        return [module for module in modules if isinstance(module, types) or type(module).__name__ == own]

    def _attentions_of_timm(self) -> list[nn.Module]:
        if type(self.timm_model).__name__ not in TIMM_PLAIN:
            return []
        attentions = [getattr(block, "attn", block) for block in self.timm_model.blocks]
        return attentions if {type(attention).__name__ for attention in attentions} <= {*TIMM_ATTENTIONS} else []

    def _head_of_timm(self) -> TokenWeights | None:
        if hasattr(self.timm_model, "head_dist"):
            return CLS_AND_DISTILLATION
        reads_all = getattr(self.timm_model, "pool_include_prefix", False)
        return None if reads_all else TIMM_POOLING.get(self.timm_model.global_pool)

    def __call__(self, pixel_values: torch.Tensor, output_attentions: bool = False) -> ModelOutput:
        """Output of the model, with `logits` and on demand `attentions`, first layer first: what the implementation returns, or
        for timm probabilities `(B, h, T, T)`. They are in one graph, which starts at the pixels if the model is frozen."""
        if not output_attentions:
            return super().__call__(pixel_values)
        timm = self.timm_model
        embeddings = self.encoder.get_input_embeddings() if timm is None else timm.patch_embed
        if not (pixel_values.requires_grad or any(parameter.requires_grad for parameter in embeddings.parameters())):
            pixel_values = pixel_values.detach().clone().requires_grad_()
        if timm is None:
            return super().__call__(pixel_values, output_attentions=True)
        recorded: list[torch.Tensor] = []  # by hooks, since transformers does not return the attentions of timm

        def record(module, args, output):
            recorded.append(output)

        with hooks_of_this_thread(*((layer.attn_drop.register_forward_hook, record) for layer in self.attentions)):
            output = super().__call__(pixel_values)
        output["attentions"] = tuple(recorded)
        return output

    def head_row(self, num_tokens: int, grid: tuple[int, int]) -> torch.Tensor:
        """Weights `(T,)`, fp32, with which the head reads the tokens: prefix tokens first, the `grid` of patches last."""
        num_patches, num_read = grid[0] * grid[1], len(self.head.prefix)
        row = torch.zeros(num_tokens, device=self.pretrained.device)
        row[:num_read] = torch.tensor(self.head.prefix, device=row.device)
        row[num_tokens - num_patches :] = self.head.patches / num_patches
        return row


def why_no_map(model: nn.Module | ImageModel) -> str | None:
    """A sentence that says why a model has no relevance map; `None` if it has one."""
    try:
        VisionTransformer(model)
    except NoRelevanceMap as error:
        return error.reason
    return None
