"""Image classifiers that transformers lacks: zero-shot classification with CLIP, and DINOv3."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoTokenizer,
    CLIPModel,
    CLIPPreTrainedModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    DINOv3ViTPreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutput

from ..data.label_mapping import check_class_names
from .weight_checks import load_checked


TEMPLATES = ("a photo of a {}.",)


class CLIPZeroShotForImageClassification(CLIPPreTrainedModel):
    """CLIP's image encoder with its projection, and the normalised text embeddings of the classes as a fixed head: logits are cosine
    similarities times the temperature of CLIP. The head is in buffers, so that finetuning changes the image encoder alone.

    Registered with `AutoModelForImageClassification` when `robust_vit_hf` is imported. `CLIPForImageClassification` of transformers
    averages the patches instead, and leaves the projection out. Make one with [`load_zero_shot`].

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


def load_zero_shot(
    name: str, classes: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> CLIPZeroShotForImageClassification:
    """Zero-shot classifier of CLIP, in fp32, from its Hub id or folder, with its tokenizer, and from names of classes as they stand in a
    text. `templates` are texts with `{}` for the name. The embeddings of several are averaged, as by the authors of CLIP."""
    classes, templates = check_class_names(classes), list(templates)
    if not templates or any("{}" not in template for template in templates):
        raise ValueError(f"Expected templates with `{{}}` for the name of the class, but got {templates}.")
    clip = load_checked(CLIPModel, name, dtype=torch.float32)
    clip.eval()
    tokenizer = AutoTokenizer.from_pretrained(name)
    texts = [[template.replace("{}", label) for template in templates] for label in classes]
    names = {"id2label": dict(enumerate(classes)), "label2id": {name: label for label, name in enumerate(classes)}}
    settings = clip.config.vision_config.to_dict() | {"projection_dim": clip.config.projection_dim}
    config = CLIPVisionConfig.from_dict(settings | names)
    config.templates = templates  # kept with the model
    model = CLIPZeroShotForImageClassification._from_config(config).eval()
    model.vision_model.load_state_dict(clip.vision_model.state_dict())
    model.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    with torch.no_grad():
        model.text_embeds.copy_(torch.stack([_text_embeds(clip, tokenizer, of_class) for of_class in texts]))
        _check_different(model.text_embeds, classes, name)
        model.logit_scale.copy_(clip.logit_scale)
    return model


def _text_embeds(clip: CLIPModel, tokenizer, texts: list[str]) -> torch.Tensor:
    """Normalised mean `(D,)` of the normalised embeddings of texts."""
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    found = clip.get_text_features(**inputs)
    embeds = F.normalize(found if isinstance(found, torch.Tensor) else found.pooler_output, dim=-1)
    return F.normalize(embeds.mean(dim=0), dim=-1)


def _check_different(text_embeds: torch.Tensor, classes: Sequence[str], name: str) -> None:
    """Refuse equal embeddings `(C, D)`, between which no image could decide."""
    equal = torch.cdist(text_embeds, text_embeds, compute_mode="donot_use_mm_for_euclid_dist") < 1e-4
    if len(pairs := equal.triu(1).nonzero()):
        first, second = (classes[index] for index in pairs[0])
        raise ValueError(
            f"`{name}` has the same embedding for `{first}` and `{second}`: CLIP reads no capitals, so give names that differ in more; "
            "or the model's tokenizer files are missing, from which transformers makes an empty tokenizer: put them there."
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
