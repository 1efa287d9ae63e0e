"""Finetune the relevance maps of vision transformers, so that they decide by the object and not by the background."""

from importlib import import_module

import lazy_loader
from wrapt import lazy_import, when_imported


__version__ = "0.3.0"

# The public names are in `__init__.pyi`. Each is imported on first use, so that `import robust_vit_hf` and the command
# line do not wait for torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


# Classes are registered with transformers as soon as it has loaded the respective registry.


@when_imported("transformers.pipelines")
def _register_pipeline(pipelines) -> None:
    import_module(
        f"{__name__}.relevance.pipeline"
    )  # registers it; its import may trigger that of `transformers.pipelines`


@when_imported("transformers.models.auto.modeling_auto")
def _register_classifiers(auto) -> None:
    from transformers.models.clip.configuration_clip import CLIPVisionConfig
    from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig

    # The classes are imported on use, since other modules of transformers import this one halfway through. `register`
    # refuses classes for transformers' own configurations, in some releases silently.
    classifiers = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING._extra_content
    classifiers[DINOv3ViTConfig] = lazy_import(f"{__name__}.models.dinov3", "DINOv3ViTForImageClassification")
    classifiers[CLIPVisionConfig] = lazy_import(f"{__name__}.models.clip", "CLIPZeroShotForImageClassification")
