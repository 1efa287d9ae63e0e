"""Image classification with DINOv3, for which transformers has no class."""

import torch
from torch import nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel, DINOv3ViTPreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


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
