"""Finetune the relevance maps of vision transformers, so that they decide by the object and not by the background."""

from .config import RobustViTConfig
from .data import load_image_set, load_masked_dataset
from .dinov3 import DINOv3ViTForImageClassification
from .losses import ConfidenceLoss, RelevanceLoss
from .pipeline import RelevanceMapPipeline
from .relevance import RelevanceOutput, relevance_map
from .trainer import RobustViTTrainer
from .transforms import eval_transform, make_image_processor, train_transform


__version__ = "0.1.0"

__all__ = [
    "ConfidenceLoss",
    "DINOv3ViTForImageClassification",
    "RelevanceLoss",
    "RelevanceMapPipeline",
    "RelevanceOutput",
    "RobustViTConfig",
    "RobustViTTrainer",
    "eval_transform",
    "load_image_set",
    "load_masked_dataset",
    "make_image_processor",
    "relevance_map",
    "train_transform",
]
