"""Image classifiers that transformers lacks: zero-shot classification with CLIP, and DINOv3."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    CLIPPreTrainedModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    DINOv3ViTPreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutput


class CLIPZeroShotForImageClassification(CLIPPreTrainedModel):
    """CLIP's image encoder with its projection, and the normalised text embeddings of the classes as a fixed head: logits are cosine
    similarities times the temperature of CLIP. The head is in buffers, so that finetuning changes the image encoder alone.

    Registered with `AutoModelForImageClassification` when `robust_vit_hf` is imported. `CLIPForImageClassification` of transformers
    averages the patches instead, and leaves the projection out. [`load_model`] makes one from CLIP and names of classes.

    Source: https://huggingface.co/papers/2103.00020, section 3.1.2
    """

    config: CLIPVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: CLIPVisionConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vision_model = CLIPVisionModel._from_config(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        embeds = F.normalize(torch.randn(config.num_labels, config.projection_dim), dim=-1)
        self.register_buffer("text_embeds", embeds)
        self.register_buffer("logit_scale", torch.tensor(math.log(1 / 0.07)))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_model.embeddings.patch_embedding

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> ImageClassifierOutput:
        """Logits `(B, C)` of images `(B, 3, H, W)`, and their mean cross-entropy with `labels` `(B,)`."""
        outputs = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        embeds = F.normalize(self.visual_projection(outputs.pooler_output), dim=-1)
        logits = self.logit_scale.exp() * embeds @ self.text_embeds.to(embeds.dtype).T
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class DINOv3ViTForImageClassification(DINOv3ViTPreTrainedModel):
    """DINOv3 with a linear head over the CLS token and the mean of the patches, as in its authors' linear probe.

    Registered with `AutoModelForImageClassification` when `robust_vit_hf` is imported. Checkpoints of the backbone
    give an untrained head: train it first, since finetuning preserves a model's predictions.

    Source: https://huggingface.co/papers/2508.10104 and `dinov3/hub/classifiers.py` of
    https://github.com/facebookresearch/dinov3
    """

    base_model_prefix = "dinov3_vit"

    def __init__(self, config: DINOv3ViTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.dinov3_vit = DINOv3ViTModel(config)
        self.classifier = nn.Linear(2 * config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> ImageClassifierOutput:
        """Logits `(B, C)` of images `(B, 3, H, W)`, and their mean cross-entropy with `labels` `(B,)`."""
        outputs = self.dinov3_vit(pixel_values, **kwargs)
        tokens = outputs.last_hidden_state
        patches = tokens[:, 1 + self.config.num_register_tokens :]
        logits = self.classifier(torch.cat([tokens[:, 0], patches.mean(dim=1)], dim=1))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
