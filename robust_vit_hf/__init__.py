"""Find out whether an image classifier decides by the background, and reduce it: with labelled photographs, or with masks and relevance maps."""

import sys
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
    # The import registers the pipeline. It may itself import `transformers.pipelines`.
    import_module(f"{__name__}.relevance.pipeline")


_AUTO = "transformers.models.auto.modeling_auto"
_CLASSIFIERS = {  # modules and configurations for which transformers has no classifier, and the classifiers of this package
    "transformers.models.clip.configuration_clip": ("CLIPVisionConfig", "CLIPZeroShotForImageClassification"),
    "transformers.models.dinov3_vit.configuration_dinov3_vit": ("DINOv3ViTConfig", "DINOv3ViTForImageClassification"),
}


def _register_classifiers(_) -> None:
    """Register the classifiers of all modules that are loaded. It is called after each: when one is complete, another may be half loaded."""
    mapping = getattr(sys.modules.get(_AUTO), "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", None)
    for place, (name, classifier) in _CLASSIFIERS.items():
        if mapping is not None and (configuration := getattr(sys.modules.get(place), name, None)):
            # The class is imported when it is used. `register` rejects transformers' own configurations, in some releases silently.
            mapping._extra_content[configuration] = lazy_import(f"{__name__}.models.added_classifiers", classifier)


for _module in (_AUTO, *_CLASSIFIERS):
    when_imported(_module)(_register_classifiers)
