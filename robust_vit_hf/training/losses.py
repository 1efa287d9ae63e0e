"""Losses of a finetuning, computed in the forward pass of the model: RobustViT's, and the base class of all others."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from types import MethodType
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from accelerate.utils import gather
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from ..relevance.architectures import ImageModel, NoRelevanceMap, VisionTransformer, unwrap_pretrained, why_no_map
from ..relevance.attention import EXPLICIT_ATTENTION
from ..relevance.linear_memory import attention_for
from ..relevance.relevance_map import RelevanceOutput, at_least_float32, relevance_map
from .config import RobustViTConfig
from .methods import METHODS, load_method


# Every map has a pixel of 1 after min–max scaling. There, the gradient of the cross-entropy with 0 is infinite.
BCE_EPSILON = 1e-6


def background_of(mask: torch.Tensor, edges: Literal["fractional", "complement"]) -> torch.Tensor:
    """Background of a mask of any shape with values in [0, 1]. `edges` is the `mask_edges` of [`RelevanceLoss`]."""
    return torch.where((mask == 0) | (mask == 1), 1 - mask, mask) if edges == "fractional" else 1 - mask


class RelevanceLoss(nn.Module):
    """Keeps the relevance map off the background and spreads it over the foreground, Eq. 1–3.

    Args:
        background_weight: λ_bg of Eq. 3.
        foreground_weight: λ_fg of Eq. 3. It is small, since this loss favours equal relevance on the whole object.
        distance: `"mse"` as in the paper, or `"bce"`, binary cross-entropy as in Concept-Guided Fine-Tuning.
        mask_edges: background at a mask value v between 0 and 1: v with `"fractional"`, as in the released code, or
            1 − v with `"complement"`.
        mean_over: pixels over which a loss is averaged: all (`"image"`), or the background or foreground (`"region"`).

    Inputs: `relevance` and `mask`, both `(B, 1, H, W)` in [0, 1]; the mask is 1 on the foreground.

    Example:
        >>> relevance = torch.tensor([[[[1.0, 0.5], [0.0, 0.5]]]])
        >>> mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
        >>> {name: round(value.item(), 5) for name, value in RelevanceLoss()(relevance, mask).items()}
        {'background_loss': 0.0625, 'foreground_loss': 0.0625, 'relevance_loss': 0.14375}

    Source: section 3 of https://huggingface.co/papers/2206.01161. Eq. 2 compares R ⊙ S with 1; the released code and
    this class compare it with S, so that the background does not contribute to the foreground loss.
    """

    def __init__(
        self,
        background_weight: float = 2.0,
        foreground_weight: float = 0.3,
        distance: Literal["mse", "bce"] = "mse",
        mask_edges: Literal["fractional", "complement"] = "fractional",
        mean_over: Literal["image", "region"] = "image",
    ):
        super().__init__()
        choices = {distance: ("mse", "bce"), mask_edges: ("fractional", "complement"), mean_over: ("image", "region")}
        for value, known in choices.items():
            if value not in known:
                raise ValueError(f"Expected one of {', '.join(known)}, but got `{value}`.")
        self.background_weight = background_weight
        self.foreground_weight = foreground_weight
        self.distance = distance
        self.mask_edges = mask_edges
        self.mean_over = mean_over

    def per_image(self, relevance: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Components `(B,)`, and `relevance_loss`, their weighted sum."""
        if relevance.shape != mask.shape:
            shapes = f"{(*relevance.shape,)} and {(*mask.shape,)}"
            raise ValueError(f"Expected `relevance` and `mask` of one shape (B, 1, H, W), but got {shapes}.")
        mask = mask.to(relevance.dtype)
        background = background_of(mask, self.mask_edges)
        background_loss = self._distance(relevance * background, torch.zeros_like(mask), background)
        foreground_loss = self._distance(relevance * mask, mask, mask)
        return {
            "background_loss": background_loss,
            "foreground_loss": foreground_loss,
            "relevance_loss": self.background_weight * background_loss + self.foreground_weight * foreground_loss,
        }

    def forward(self, relevance: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: values.mean() for name, values in self.per_image(relevance, mask).items()}

    def _distance(self, prediction: torch.Tensor, target: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
        if self.distance == "mse":
            values = F.mse_loss(prediction, target, reduction="none")
        else:
            prediction = prediction.clamp(BCE_EPSILON, 1 - BCE_EPSILON)
            # The kernel rejects NaN, on CUDA by ending the process. NaN is kept here, and the training reports it.
            values = F.binary_cross_entropy(prediction.nan_to_num(0.5), target, reduction="none")
            values = torch.where(prediction.isnan(), prediction, values)
        if self.mean_over == "image":
            return values.mean(dim=(1, 2, 3))
        # Outside the region, prediction and target are 0, and so is their distance. Regions may be empty.
        return values.sum(dim=(1, 2, 3)) / region.sum(dim=(1, 2, 3)).clamp(min=1)


class ConfidenceLoss(nn.Module):
    """Preserves predictions: cross-entropy with the predicted class (Eq. 4) or with given classes, or
    Kullback–Leibler divergence from the output of another model.

    Args:
        temperature: divisor of the logits. The released code uses 0.65 for DeiT-B, 0.55 for DeiT-S, and 1 for others.

    Inputs: `logits` `(B, C)`, and `target`: classes `(B,)`, logits of another model `(B, C)`, which are divided by the
    temperature too, or `None` for the argmax of `logits`.

    Source: section 3 of https://huggingface.co/papers/2206.01161
    """

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        self.temperature = temperature

    def per_image(self, logits: torch.Tensor, target: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        target = logits.argmax(dim=1) if target is None else target
        logits = at_least_float32(logits) / self.temperature
        if target.dim() == 1:
            return {"confidence_loss": F.cross_entropy(logits, target, reduction="none")}
        expected = F.log_softmax(at_least_float32(target) / self.temperature, dim=1)
        divergence = F.kl_div(F.log_softmax(logits, dim=1), expected, reduction="none", log_target=True)
        return {"confidence_loss": divergence.sum(dim=1)}

    def forward(self, logits: torch.Tensor, target: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {name: values.mean() for name, values in self.per_image(logits, target).items()}


class TrainingDiverged(ValueError):
    """A loss became NaN or infinite."""


class Penalty(NamedTuple):
    loss: torch.Tensor | float  # (B,), multiplied by its weight; or 0
    components: dict[str, torch.Tensor]  # (B,) by name, for logs
    logits: torch.Tensor  # (B, C), from the same forward pass


class Method(ABC):
    """Loss of a finetuning: a penalty, which a subclass computes, plus the confidence loss.

    [`install`] makes it a part of the model's `forward`, as in every model of transformers that takes labels. So DDP,
    FSDP2 and autocast wrap it as a whole, and the attentions that it reads are in the graph.

    Args:
        args: weights and targets of the losses.
        swap: function of pixel values and masks of a training batch that gives images other backgrounds.

    Attributes:
        values: components of the loss since they were last read, by mode of the model (`True` in training): names and
            values `(B, number of names)` of the images of all processes. `top1` is NaN without a label.
    """

    config: ClassVar[type[RobustViTConfig]] = RobustViTConfig
    second_derivative: ClassVar[bool] = False  # whether the loss needs a derivative of a gradient

    def __init__(self, args: RobustViTConfig, swap: Callable[..., torch.Tensor] | None = None):
        self.args, self.swap = args, swap  # a search changes arguments, so that losses read them in each step
        self.original: nn.Module | None = None  # frozen copy of the starting model
        self.values: dict[bool, list[tuple[list[str], torch.Tensor]]] = {True: [], False: []}

    def install(self, model: nn.Module) -> nn.Module:
        """Give `model` a `forward(pixel_values, mask, labels)` with this loss, and return it. Without labels, it is
        the `forward` that it was before."""
        check_has_map(model, self.args)
        pretrained = unwrap_pretrained(model)
        if self.args.confidence_target == "original":
            self.original = deepcopy(model).requires_grad_(False).eval()
        pretrained.finetuning_loss = self
        pretrained.forward = MethodType(forward_with_loss, pretrained)
        pretrained.accepts_loss_kwargs = True  # `num_items_in_batch`
        # The Trainer loads checkpoints without converting their names (huggingface/transformers#48805).
        pretrained.register_load_state_dict_pre_hook(convert_names)
        return model

    @abstractmethod
    def penalty(
        self, vit: ImageModel, pixel_values: torch.Tensor, mask: torch.Tensor, targets: dict[str, torch.Tensor | None]
    ) -> Penalty:
        """Penalty of each image, computed in one forward pass.

        Args:
            vit: the model, whose `logits` calls its own `forward`; a [`VisionTransformer`] if it has a relevance map.
            pixel_values: `(B, 3, H, W)`, normalised.
            mask: `(B, 1, H, W)` in [0, 1], 1 on the object.
            targets: `label`: labels `(B,)`, or `None` without labels; `prediction`: `None`; `original`: logits `(B, C)`
                of the original model, if the loss uses them.
        """

    def per_image(
        self, vit: ImageModel, pixel_values: torch.Tensor, mask: torch.Tensor, targets: dict[str, torch.Tensor | None]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Components `(B,)` of the loss by name, including `loss`, and the logits `(B, C)`, see [`penalty`]."""
        penalty = self.penalty(vit, pixel_values, mask, targets)
        confidence_loss = ConfidenceLoss(self.args.confidence_temperature)
        confidence = confidence_loss.per_image(penalty.logits, targets[self.args.confidence_target])
        loss = self.args.confidence_weight * confidence["confidence_loss"] + penalty.loss
        return penalty.components | confidence | {"loss": loss}, penalty.logits

    def explain(
        self, vit: ImageModel, pixel_values: torch.Tensor, targets: dict[str, torch.Tensor | None], **options
    ) -> RelevanceOutput:
        """Relevance of the target. NaN is not checked here, since the loss is checked."""
        target, args = targets[self.args.relevance_target], self.args
        options |= {"create_graph": args.second_order, "start_layer": args.start_layer}
        return relevance_map(vit, pixel_values, target, check_finite=False, **options)

    def __call__(
        self,
        vit: ImageModel,
        pixel_values: torch.Tensor,
        mask: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> ImageClassifierOutput:
        """Loss and logits `(B, C)` of a batch, see [`forward_with_loss`]."""
        lowest = labels.min()
        if lowest < -1 or (lowest < 0 and self.args.needs_labels):
            raise ValueError(f"`labels` has {int(lowest)}: `{self.args.method}` needs a label of each image.")
        low, high = mask.aminmax()
        if low < 0 or high > 1 or mask.shape != (len(pixel_values), 1, *pixel_values.shape[2:]):
            raise ValueError(
                f"Expected masks (B, 1, H, W) from 0 to 1 (foreground) for images of {(*pixel_values.shape,)}, but "
                f"got {(*mask.shape,)} from {low:g} to {high:g}."
            )
        targets: dict[str, torch.Tensor | None] = {"label": labels if lowest >= 0 else None, "prediction": None}
        training = vit.pretrained.training
        if self.original is not None:
            with torch.no_grad():
                targets["original"] = ImageModel(self.original.to(pixel_values.device)).logits(pixel_values)
        if training and self.swap is not None:
            pixel_values = self.swap(pixel_values, mask)
        values, logits = self.per_image(vit, pixel_values, mask, targets)
        total = values["loss"].mean() if num_items_in_batch is None else values["loss"].sum() / num_items_in_batch
        correct = (logits.argmax(dim=1) == labels).float()
        values["top1"] = torch.where(labels < 0, torch.nan, correct)
        names, table = list(values), torch.stack([value.detach().float() for value in values.values()], dim=1)
        table = gather(table)
        if not table[:, :-1].isfinite().all():
            bad = [name for name, value in zip(names[:-1], table.T, strict=False) if not value.isfinite().all()]
            raise TrainingDiverged(
                f"NaN or infinite for an image of the batch: {', '.join(bad)}. Lower the learning rate, which is "
                f"{self.args.learning_rate:g}, or train in float32."
            )
        self.values[training].append((names, table))
        return ImageClassifierOutput(loss=total, logits=logits)

    def begin(self, model: nn.Module, training: bool) -> None:
        """Begin a training or an evaluation: the loss of `model` is this one, also if another Trainer has since installed
        its own, and values of an interrupted loop are forgotten."""
        unwrap_pretrained(model).finetuning_loss = self
        self.values[training] = []

    def read_values(self, training: bool, count: int | None = None) -> dict[str, float]:
        """Mean of each component of the loss over the images since the last call, or over `count` of these."""
        batches, self.values[training] = self.values[training], []
        if not batches:
            return {}
        means = torch.cat([table for _, table in batches])[:count].nanmean(dim=0).tolist()
        return {name: mean for name, mean in zip(batches[0][0], means, strict=True) if mean == mean}


def check_has_map(model: nn.Module, args: RobustViTConfig) -> None:
    """Reject a model without a relevance map if the loss has one."""
    if args.relevance_weight and (why := why_no_map(model)):
        others = [name for name in METHODS if not load_method(name).config.relevance_weight]
        raise NoRelevanceMap(f"{why} `{args.method}` trains that map. Methods for this model: {', '.join(others)}.")


def forward_with_loss(
    model: PreTrainedModel, pixel_values=None, mask=None, labels=None, num_items_in_batch=None, **arguments
):
    """`forward` of a model with the loss of a [`Method`].

    Args:
        pixel_values: `(B, 3, H, W)`, normalised.
        mask: `(B, 1, H, W)` in [0, 1], 1 on the object.
        labels: `(B,)`; -1 for images without a label. Without labels, this is the model's own `forward`.
        num_items_in_batch: number of images over which the Trainer averages the loss; by default those of this batch.

    Returns:
        `loss`, and `logits` `(B, C)` of the images as the model saw them. Without masks, as in predictions, the loss is
        the cross-entropy.
    """
    own = MethodType(type(model).forward, model)
    if labels is None and (mask is None or not model.training):
        return own(pixel_values=pixel_values, **arguments)
    if mask is None and not model.training:
        logits = own(pixel_values=pixel_values, **arguments).logits
        return ImageClassifierOutput(loss=F.cross_entropy(logits, labels, ignore_index=-1), logits=logits)
    given = {"pixel_values": pixel_values, "mask": mask, "labels": labels}
    if missing := [name for name, value in given.items() if value is None]:
        raise ValueError(
            f"Expected `pixel_values`, `mask` and `labels` (-1: none) in each batch, but there is no `{missing[0]}`: "
            "the transform of the rows, or the `data_collator`, must return it."
        )
    if arguments:
        raise TypeError(f"The loss takes {', '.join(given)} alone, but got {', '.join(arguments)}.")
    method = model.finetuning_loss
    vit = ImageModel(model, own) if why_no_map(model) else VisionTransformer(model, own)
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.eval()  # swapped backgrounds would change the statistics, and so all predictions
    wanted = EXPLICIT_ATTENTION if method.second_derivative else None
    if method.args.relevance_weight:
        rows, columns = vit.patch_grid(pixel_values)
        wanted = attention_for(vit, rows * columns, method.args.second_order)
    if wanted and model.training and vit.attention not in ("eager", wanted):
        # Until the end of the training, since activation checkpointing computes attention again in `loss.backward()`.
        vit.attention = wanted
    return method(vit, pixel_values, mask, labels, num_items_in_batch)


def convert_names(model: PreTrainedModel, state_dict: dict, prefix: str, *_) -> None:
    """Hook of `load_state_dict` that converts names of earlier versions of transformers, as `from_pretrained` does."""
    if prefix or not state_dict.keys() - model.state_dict().keys():
        return
    arguments = {"config": model.config, "state_dict": dict(state_dict), "output_loading_info": True}
    converted, info = type(model).from_pretrained(None, **arguments)
    weights = {name: value for name, value in converted.state_dict().items() if name not in info["missing_keys"]}
    weights |= {name: state_dict[name] for name in info["unexpected_keys"]}
    state_dict.clear()
    state_dict.update(weights)


class RobustViT(Method):
    """Eq. 5 of https://huggingface.co/papers/2206.01161, with the weights of its Table 5."""

    def penalty(self, vit, pixel_values, mask, targets):
        args = self.args
        if args.relevance_weight == 0:
            return Penalty(0.0, {}, vit.logits(pixel_values))
        output = self.explain(vit, pixel_values, targets)
        relevance_loss = RelevanceLoss(
            args.background_weight, args.foreground_weight, args.relevance_distance, args.mask_edges, args.mean_over
        )
        values = relevance_loss.per_image(output.relevance, mask)
        return Penalty(args.relevance_weight * values["relevance_loss"], values, output.logits)
