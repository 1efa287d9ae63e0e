"""Image processors, and the protocols of preprocessing: of the paper, of the pretraining, and of the model itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from PIL.Image import Resampling

from ..utils.files import RUN_FILE, read_json
from ..utils.privacy import check_on_hub, is_hub_id
from .model_names import BUNDLED_MODEL, MODELS, find_model, registered_of, resolve


if TYPE_CHECKING:  # the command line does not import transformers for names
    from transformers import BaseImageProcessor, PreTrainedModel, ViTImageProcessor


# `paper` and `native`: see `make_image_processor`. `model`: the processor saved with the model, unchanged.
Protocol = Literal["paper", "native", "model"]
TIMM_SETTINGS = ("crop_pct", "interpolation", "mean", "std")  # what timm's evaluation transform needs
# Settings of a `ViTImageProcessor`, which tell a protocol.
SETTINGS = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor")
SETTINGS += ("do_normalize", "image_mean", "image_std")
STATISTICS = {"imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), "half": ([0.5] * 3, [0.5] * 3)}


def make_image_processor(
    protocol: Protocol, image_size: int | tuple[int, int] = 224, native_processor: BaseImageProcessor | None = None
) -> ViTImageProcessor:
    """Image processor of a protocol.

    Args:
        protocol: `"paper"`: shortest side to 256 (bilinear), crop of 224, mean and standard deviation 0.5, also for DeiT;
            `"native"`: shortest side to 248 (bicubic), crop of 224, and the statistics of the pretraining, as in timm.
        image_size: side of the crop in pixels, or `(height, width)`, to whose proportions images are squashed. The size
            before the crop is scaled with it.
        native_processor: processor of the pretrained model, whose statistics the native protocol uses.
    """
    factor, resample = {"paper": (256 / 224, Resampling.BILINEAR), "native": (248 / 224, Resampling.BICUBIC)}[protocol]
    statistics = STATISTICS["half"] if protocol == "paper" else _statistics(native_processor)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    resized = {"height": round(height * factor), "width": round(width * factor)}
    resized = {"shortest_edge": resized["height"]} if height == width else resized
    return _cropping_processor(resized, (height, width), resample, statistics)


def _cropping_processor(
    resized: dict[str, int], crop: tuple[int, int], resample: Resampling, statistics: tuple[list[float], list[float]]
) -> ViTImageProcessor:
    from transformers import ViTImageProcessor

    crop_size, (mean, std) = dict(zip(("height", "width"), crop, strict=True)), map(list, statistics)
    options = {"resample": resample, "image_mean": mean, "image_std": std}
    return ViTImageProcessor(size=resized, do_center_crop=True, crop_size=crop_size, **options)


def _statistics(processor: BaseImageProcessor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation with which a processor normalises pixels in [0, 1]."""
    factor = getattr(processor, "rescale_factor", 1 / 255) if getattr(processor, "do_rescale", True) else 1
    if getattr(processor, "do_normalize", False) and factor == 1 / 255:
        return list(processor.image_mean), list(processor.image_std)
    from ..data.transforms import pixel_levels

    black, white = pixel_levels(processor)
    return (-black / (white - black)).tolist(), (1 / (white - black)).tolist()


def _settings(config: dict | None) -> dict:
    """Settings of the pretraining in a `config.json` of timm."""
    return (config or {}).get("pretrained_cfg", config or {})


def states_preprocessing(config: dict | None) -> bool:
    """Whether a `config.json` of timm has all of [`TIMM_SETTINGS`]."""
    return set(TIMM_SETTINGS) <= _settings(config).keys()


def timm_processor(
    config: dict | None, protocol: Protocol, image_size: int, statistics: str | None = None
) -> ViTImageProcessor:
    """Image processor for weights of timm.

    Args:
        config: timm's `config.json`, if there is one.
        protocol: see [`make_image_processor`]; `"model"` is timm's own evaluation transform.
        statistics: for the native protocol, the key of [`STATISTICS`] to use instead of those of `config`.
    """
    from transformers import ViTImageProcessor

    settings = _settings(config)
    if protocol == "paper":
        return make_image_processor("paper", image_size)
    if protocol == "native":
        if statistics is None and not {"mean", "std"} <= settings.keys():
            raise ValueError(
                "The mean and standard deviation of the pretraining are not known: give `--statistics imagenet` or `half`."
            )
        mean, std = STATISTICS[statistics] if statistics else (settings["mean"], settings["std"])
        return make_image_processor("native", image_size, ViTImageProcessor(image_mean=mean, image_std=std))
    mode = settings.get("crop_mode") or "center"
    if not states_preprocessing(config) or mode not in ("center", "squash"):
        raise ValueError(
            f"The `config.json` of timm lacks one of {', '.join(TIMM_SETTINGS)}, or its `crop_mode` is unknown: give `--protocol paper` or `native`."
        )
    side = math.floor(image_size / settings["crop_pct"])
    resized = {"shortest_edge": side} if mode == "center" else {"height": side, "width": side}
    resample = Resampling[settings["interpolation"].upper()]
    return _cropping_processor(resized, (image_size, image_size), resample, (settings["mean"], settings["std"]))


def load_processor(
    name: str, protocol: Protocol, model: PreTrainedModel, image_size: int | None = None
) -> BaseImageProcessor:
    """Image processor of a model under a protocol, see [`make_image_processor`].

    Args:
        name: name, Hub id or folder of the model. The bundled model has the processor of the protocol `paper`.
        protocol: with `"model"`, the processor that is saved with the model, or that of timm's `config.json`.
        image_size: side of the images in pixels, to which resize and crop are scaled. By default that of the processor or model.
    """
    from transformers import AutoImageProcessor
    from transformers.utils import IMAGE_PROCESSOR_NAME
    from transformers.utils.peft_utils import find_adapter_config_file

    from ..data.transforms import input_size
    from .loading import is_timm
    from .timm_format import timm_files

    if name in MODELS and MODELS[name].load is not None:
        size = image_size or MODELS[name].image_size
        paper = make_image_processor("paper", size)
        return paper if protocol == "model" else make_image_processor(protocol, size, paper)
    source = resolve(name)
    if is_timm(source) and model.config.model_type != "timm_wrapper":
        return timm_processor(timm_files(source)[1], protocol, image_size or model.config.image_size)
    read_json(Path(source, IMAGE_PROCESSOR_NAME))  # rejects a damaged file, which transformers would report as missing
    # In folders, transformers would prefer a `config.json` of timm.
    named = {"image_processor_filename": IMAGE_PROCESSOR_NAME} if Path(source, IMAGE_PROCESSOR_NAME).is_file() else {}
    try:
        saved = AutoImageProcessor.from_pretrained(source, **named)
    except OSError as error:
        if adapter := find_adapter_config_file(source):  # an adapter saved without a processor has that of its base
            base = read_json(Path(adapter))["base_model_name_or_path"]
            return load_processor(base, protocol, model, image_size)
        if protocol != "paper":
            raise OSError(
                f"`{name}` has no image processor, and the protocol `{protocol}` needs it: save one with the weights by "
                "`processor.save_pretrained(folder)`, or give `--protocol paper`."
            ) from error
        saved = None  # the protocol `paper` needs only the image size
    saved = squashing(saved)
    if protocol == "model":
        return saved if image_size is None else _scaled(saved, image_size)
    if image_size is None:
        crops = getattr(saved, "do_center_crop", False) or not hasattr(model.config, "image_size")
        image_size = input_size(saved) if crops else model.config.image_size
    return make_image_processor(protocol, image_size, saved)


def squashing(processor: BaseImageProcessor | None) -> BaseImageProcessor | None:
    """The processor itself; for SigLIP 2 (NaFlex), one that squashes images to a square with at most as many patches."""
    from transformers import ViTImageProcessor

    if not hasattr(processor, "max_num_patches"):
        return processor
    side = math.isqrt(processor.max_num_patches) * processor.patch_size
    settings = {name: getattr(processor, name) for name in ("resample", "rescale_factor", "image_mean", "image_std")}
    return ViTImageProcessor(size={"height": side, "width": side}, **settings)


def _scaled(processor: BaseImageProcessor, image_size: int) -> BaseImageProcessor:
    """Copy of a processor for square images of another size, with the same ratio of resize and crop."""
    from ..data.transforms import has_plain_geometry, input_size

    if not has_plain_geometry(processor):
        raise ValueError(
            f"A {type(processor).__name__} cannot be scaled to another image size: leave out `image_size`, or choose the protocol `paper` or `native`."
        )
    height, width = input_size(processor)
    square = {"height": image_size, "width": image_size}
    sides = {"height": height, "width": width, "shortest_edge": min(height, width)}
    size = {name: round(value * image_size / sides.get(name, width)) for name, value in dict(processor.size).items()}
    return type(processor).from_dict(processor.to_dict() | {"size": size, "crop_size": square})


def resolve_protocol(protocol: Protocol | None, model: str, compare: str | None = None) -> Protocol:
    """The given protocol, or that of the run that made `compare` or `model`, or `paper` for a registered model, or `model`."""
    if protocol is not None:
        return protocol
    registered = {name: find_model(name) for name in (compare, model) if name}
    for name, known in registered.items():
        if not known and (recorded := _run_record(name).get("protocol")):
            return recorded if recorded in get_args(Protocol) else "model"
    return "paper" if registered[model] else "model"


def is_of_paper(model: str) -> bool:
    """Whether a model is registered, or was finetuned from a registered one according to its `run.json`."""
    if find_model(model):
        return True
    record = _run_record(model)
    bases = (model, record.get("base_model") or model)  # of the bundled model, it is DINOv2, which is not registered
    return registered_of(record) == BUNDLED_MODEL or any(map(find_model, bases))


def _run_record(name: str) -> dict:
    """Contents of the `run.json` of a finetuned model; empty if there is none."""
    from huggingface_hub import hf_hub_download

    file = Path(name, RUN_FILE)
    if is_hub_id(name):
        check_on_hub(name)
        try:
            file = Path(hf_hub_download(name, RUN_FILE))
        except OSError:  # no such file or model, or offline: loading the model reports it
            return {}
    record = read_json(file) or {}
    return {"protocol": record.get("preset")} | record  # the key of versions up to 0.3


def protocol_of(processor: BaseImageProcessor) -> Protocol:
    """The protocol that gives this image processor; `model` if neither `paper` nor `native` does."""
    from ..data.transforms import input_size

    for protocol in ("paper", "native"):
        try:
            made = make_image_processor(protocol, input_size(processor), processor)
        except (ValueError, TypeError, AttributeError):  # a processor for several image sizes, or without statistics
            continue
        # In processors of transformers, `None` means False.
        if all((getattr(processor, name, None) or False) == (getattr(made, name) or False) for name in SETTINGS):
            return protocol
    return "model"


def squash_resample(processor: BaseImageProcessor) -> int:
    """Interpolation with which images are squashed: bilinear as in the released code; under `model`, that of the processor."""
    own = getattr(processor, "resample", Resampling.BILINEAR)
    return own if protocol_of(processor) == "model" else Resampling.BILINEAR
