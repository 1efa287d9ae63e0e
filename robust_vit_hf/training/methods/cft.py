"""Concept-Guided Fine-Tuning: the paper's method with binary cross-entropy, and masks of concepts."""

from .robustvit import RobustViT


class ConceptGuidedFineTuning(RobustViT):
    """0.8 · (1.2 · background + 0.5 · foreground) + 0.2 · cross-entropy with the prediction, with binary cross-entropy
    as distance from the mask. Masks come from the dataset; for concept masks, see `robust-vit masks`.

    Source: https://huggingface.co/papers/2603.08309
    """

    DEFAULTS = RobustViT.DEFAULTS | {
        "background_weight": 1.2,
        "foreground_weight": 0.5,
        "relevance_distance": "bce",
        "mask_edges": "complement",
        "mean_over": "region",
    }
