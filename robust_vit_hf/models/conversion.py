"""Bit-exact conversion of ViT and DeiT between timm and transformers, and models with a new head."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from ..utils.files import atomic_folder, weights_read, write_json
from ..utils.privacy import public_name
from .image_processors import Protocol, load_processor, resolve_protocol, states_preprocessing, timm_processor
from .loading import is_timm, load_checked, load_model
from .model_names import CONVERSION_FILE, find_model, resolve
from .options import ConvertOptions
from .timm_format import hf_to_timm, load_timm, save_timm, timm_files, timm_to_hf


def convert(options: ConvertOptions) -> str:
    """Run `robust-vit convert`, and return what was written, in a line."""
    output = options.output_dir
    if options.classes is not None:
        model = write_with_classes(options.source, output, options.classes, options.templates, options.protocol)
    elif options.to == "timm":
        model = convert_to_timm(options.source, output, options.statistics)
    else:
        model = convert_to_transformers(options)
    return f"{output}: {model.num_parameters():,} parameters of {type(model).__name__}"


def write_with_classes(
    source: str, output: Path, classes: Path, templates: Sequence[str] | None = None, protocol: Protocol | None = None
) -> PreTrainedModel:
    """Write a model folder with a new head, see [`load_model`]. Each line of the file `classes` is the name of a class."""
    try:
        names = [line for line in classes.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"`{classes}` must be UTF-8 text with the name of a class on each line: {error}") from error
    with atomic_folder(output) as folder:
        model = load_model(source, classes=names, templates=templates)
        if protocol is None:
            hub_id = resolve(source)
            bare = is_timm(hub_id) and not states_preprocessing(timm_files(hub_id)[1])
            protocol = "paper" if bare else resolve_protocol(None, source)
        model.save_pretrained(folder)
        load_processor(source, protocol, model).save_pretrained(folder)
    return model


def convert_to_transformers(options: ConvertOptions) -> PreTrainedModel:
    """Write a model folder of transformers, with `conversion.json`, which names the source. The protocol of its image
    processor is by default `paper` for registered models and for weights without timm's preprocessing, else `model`."""
    source = resolve(options.source)
    protocol: Protocol | None = options.protocol
    with atomic_folder(options.output_dir) as folder:
        weights, config = load_timm(source)
        if protocol is None:
            protocol = "model" if states_preprocessing(config) and find_model(source) is None else "paper"
        with weights_read(source):
            model = timm_to_hf(weights, config, image_size=options.image_size, num_heads=options.num_heads)
        model.save_pretrained(folder)
        timm_processor(config, protocol, model.config.image_size, options.statistics).save_pretrained(folder)
        write_json(folder / CONVERSION_FILE, {"source": public_name(source)})
    return model


def convert_to_timm(source: str, output: Path, statistics: str | None = None) -> PreTrainedModel:
    """Write a model folder of timm with the preprocessing of the source, or the native protocol with these `statistics`."""
    source = resolve(source)
    with atomic_folder(output) as folder:
        model = load_checked(AutoModelForImageClassification, source, dtype="auto")
        weights = hf_to_timm(model)  # rejects other architectures, which may have no image size
        if statistics:
            processor = timm_processor(None, "native", model.config.image_size, statistics)
        else:
            processor = AutoImageProcessor.from_pretrained(source)
        save_timm(model, weights, processor, folder)
    return model
