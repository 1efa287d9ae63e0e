"""The two models of the page, before and after finetuning."""

from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedModel, ViTImageProcessor

from ..class_names.label_mapping import check_same_classes, classes_of_model
from ..models.loading import load_model
from ..models.preprocessing import Preset, load_processor
from ..relevance.architectures import VisionTransformer


@dataclass(frozen=True)
class Pair:
    """Models and image processors by side, `before` and `after`, and the names of their classes by index."""

    models: dict[str, PreTrainedModel]
    processors: dict[str, ViTImageProcessor]
    classes: list[str]

    def class_name(self, index: int) -> str:
        """Name of a class, with its index where several have this name."""
        name = self.classes[index]
        return name if self.classes.count(name) == 1 else f"{name} ({index})"


@lru_cache(maxsize=2)
def load_pair(before: str, after: str, preset: Preset) -> Pair:
    """Two models with the same classes.

    Args:
        before, after: names, folders or Hub ids, as for [`load_model`].
        preset: preprocessing of both.

    Raises:
        OSError: there is no such model.
        ValueError: the models have other classes, or one has an architecture without relevance maps or cannot be loaded.
    """
    names = {"before": before, "after": after}
    models = {side: load_model(name).eval().requires_grad_(False) for side, name in names.items()}
    for model in models.values():
        VisionTransformer(model)  # refuses an unsupported architecture
    classes = {side: classes_of_model(model.config) for side, model in models.items()}
    check_same_classes(classes["before"], classes["after"])
    processors = {side: load_processor(name, preset, models[side]) for side, name in names.items()}
    return Pair(models, processors, list(map(str, classes["before"])))
