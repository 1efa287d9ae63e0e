"""Load models by name, Hub id or folder, with their own head or a new one. Also digests of models."""

import copy
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, AutoTokenizer, CLIPModel, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from ..data.classes import check_class_names, classes_of_model
from ..relevance.architectures import UNRECORDED_ATTENTION, unwrap_pretrained
from ..utils.files import RUN_FILE, json_digest, read_json, weights_read
from .added_classifiers import CLIPZeroShotForImageClassification
from .model_names import MODELS, check_model, resolve
from .timm_format import OtherArchitecture, load_timm, timm_to_hf


# Values of a configuration that do not change logits: names, paths, versions, initialisation and output format. The digest
# covers `architectures` by the class of the model, and `dtype` by its weights.
NOT_COMPUTED = {
    *("architectures", "attn_implementation", "auto_map", "dtype", "finetuning_task", "id2label", "initializer_range"),
    *("label2id", "output_attentions", "output_hidden_states", "problem_type", "return_dict", "torch_dtype"),
    *("transformers_version", "use_cache"),  # the Trainer sets `use_cache`
}
TEMPLATES = ("a photo of a {}.",)


def load_model(
    name: str,
    trust_remote_code: bool = False,
    *,
    classes: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
) -> PreTrainedModel:
    """Load an image classifier in fp32.

    Args:
        name: name in [`MODELS`], or Hub id or folder of a model of transformers or timm, or of a PEFT adapter, which is
            merged into its base.
        trust_remote_code: whether to run model code that comes with the weights.
        classes: names of classes for a new head: for CLIP a zero-shot head, for others a linear head of zeros, to be trained.
        templates: texts for the names of the classes of CLIP, see [`load_zero_shot`].

    Raises:
        OSError: there is no such model.
        ValueError: the name is ambiguous, or that of a file or a folder without a model; weights do not fit; or the head is
            not for exclusive classes, or cannot be replaced.
    """
    if name in MODELS and any(Path(name, file).is_file() for file in ("config.json", "adapter_config.json")):
        raise ValueError(f"`{name}` is both a registered model and a folder here. For the folder, give `./{name}`.")
    if name not in MODELS:
        check_model(name)
    is_clip = False
    if classes is not None and name not in MODELS and not is_timm(name) and find_adapter_config_file(name) is None:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        is_clip = isinstance(config, CLIPModel.config_class)
    if templates is not None and not is_clip:
        raise ValueError(f"`templates` are texts for the classes of CLIP. `{name}` is another model: leave them out.")
    if classes is None:
        return check_single_label(_load(name, trust_remote_code))
    if is_clip:
        return load_zero_shot(name, classes, TEMPLATES if templates is None else templates)
    return with_new_head(_load(name, trust_remote_code, with_head=False), classes)


def load_zero_shot(
    name: str, classes: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> CLIPZeroShotForImageClassification:
    """Zero-shot classifier of CLIP, in fp32.

    Args:
        name: Hub id or folder of a CLIP with its tokenizer.
        classes: names of the classes, as used in a text.
        templates: texts with `{}` in place of the name. Embeddings of several texts are averaged, as by CLIP's authors.
    """
    classes, templates = check_class_names(classes), list(templates)
    if not templates or any("{}" not in template for template in templates):
        raise ValueError(f"Expected templates with `{{}}` for the name of the class, but got {templates}.")
    clip, tokenizer = load_checked(CLIPModel, name, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(name)
    names = {"id2label": dict(enumerate(classes)), "label2id": {name: label for label, name in enumerate(classes)}}
    own = clip.config.vision_config
    config = type(own).from_dict(own.to_dict() | {"projection_dim": clip.config.projection_dim} | names)
    config.templates = templates  # kept with the model
    model = CLIPZeroShotForImageClassification._from_config(config).eval()
    model.vision_model.load_state_dict(clip.vision_model.state_dict())
    model.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    with torch.no_grad():
        for embedding, label in zip(model.text_embeds, classes, strict=True):
            texts = [template.replace("{}", label) for template in templates]
            embeds = clip.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
            embedding.copy_(F.normalize(F.normalize(embeds, dim=-1).mean(dim=0), dim=-1))
        model.logit_scale.copy_(clip.logit_scale)
    distances = torch.cdist(model.text_embeds, model.text_embeds, compute_mode="donot_use_mm_for_euclid_dist")
    if len(equal := (distances < 1e-4).triu(1).nonzero()):  # no image could decide between these classes
        first, second = (classes[index] for index in equal[0])
        raise ValueError(
            f"`{name}` gives `{first}` and `{second}` the same embedding. Give names that differ in more than capitals, which CLIP does "
            "not read. If they do, the tokenizer files are missing from the model: add them."
        )
    return model


def check_single_label(model: nn.Module) -> nn.Module:
    """Return the model if each image has exactly one of its classes; otherwise raise a `ValueError`."""
    config = unwrap_pretrained(model).config
    if config.problem_type in ("multi_label_classification", "regression") or config.num_labels < 2:
        raise ValueError(
            f"The model has {config.num_labels} output(s) for `{config.problem_type or 'regression'}`. Expected a classifier with two or "
            "more classes, of which each image has exactly one."
        )
    if config.id2label and sorted(config.id2label) != list(range(config.num_labels)):
        raise ValueError(
            f"`id2label` in the `config.json` of the model has the classes {min(config.id2label)} to {max(config.id2label)}. Expected 0 to "
            f"{config.num_labels - 1}, one for each logit."
        )
    return model


def _load(name: str, trust_remote_code: bool, with_head: bool = True) -> PreTrainedModel:
    """Model in fp32. Without `with_head`, weights of the head may be missing."""
    if name in MODELS and MODELS[name].load is not None:
        return MODELS[name].load()
    name = resolve(name)
    with weights_read(name):
        if is_timm(name):
            with suppress(OtherArchitecture):  # transformers runs other models through timm
                return timm_to_hf(*load_timm(name)).float().eval()
        if find_adapter_config_file(name) is not None:
            return load_adapted(name, trust_remote_code)
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    if timm_arguments := getattr(config, "model_args", None):
        timm_arguments.pop("num_classes", None)  # transformers would pass it twice
    if not with_head:
        config.num_labels = config.num_labels or 2  # some models of timm have no head
    options = {"config": config, "trust_remote_code": trust_remote_code, "dtype": torch.float32}
    options["optional"] = None if with_head else head_names
    model = load_checked(AutoModelForImageClassification, name, **options)
    if type(model).__name__ in UNRECORDED_ATTENTION:  # their attention implementation cannot be switched later
        model = load_checked(AutoModelForImageClassification, name, attn_implementation="eager", **options)
    return model


def load_checked(
    model_class: Any, name: str, optional: Callable[[PreTrainedModel], list[str]] | None = None, **options
) -> PreTrainedModel:
    """Load a model. Raise a `ValueError` for missing weights, other shapes, and weights of layers that the configuration lacks. `optional`
    gives the names of the modules whose weights may be missing."""
    with weights_read(name):
        model, loading = model_class.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    problem, spared = None, set()
    if optional is not None and not loading["mismatched_keys"]:
        spared = {*optional(model)}
    if mismatched := sorted(loading["mismatched_keys"]):
        key, shape, expected = mismatched[0]
        problem = f"has weights whose shapes do not fit its `config.json`, {len(mismatched)} in all, such as `{key}`: {tuple(shape)}, expected {tuple(expected)}."
    elif missing := sorted(key for key in loading["missing_keys"] if key.rpartition(".")[0] not in spared):
        problem = (
            f"lacks weights of a `{type(model).__name__}`, {len(missing)} in all, such as `{missing[0]}`. Expected a model with a trained head. For "
            "CLIP, or for a new head to train, name the classes: `load_model(…, classes=[…])` or `robust-vit convert … --classes FILE`."
        )
    elif layers := sorted(key for key in loading["unexpected_keys"] if re.search(r"\blayers?\.\d+\.", key)):
        problem = f"has weights of layers that its `config.json` lacks, {len(layers)} in all, such as `{layers[0]}`."
    if problem is not None:
        raise ValueError(f"`{name}` {problem}")
    return model


def with_new_head(model: PreTrainedModel, classes: Sequence[str]) -> PreTrainedModel:
    """Replace the head of a model by a linear head of zeros for other classes. Until it is trained, all are equally probable."""
    config, heads = model.config, head_names(model)
    config.id2label = dict(enumerate(check_class_names(classes)))
    config.label2id = {name: label for label, name in config.id2label.items()}
    if hasattr(config, "label_names"):  # models of timm read the names from here
        config.label_names = list(config.label2id)
    model.num_labels = config.num_labels
    for name in heads:
        head = nn.Linear(model.get_submodule(name).in_features, config.num_labels)
        model.set_submodule(name, head.requires_grad_(True))
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return model


@torch.no_grad()
def with_classes_alone(model: PreTrainedModel, labels: Sequence[int]) -> PreTrainedModel:
    """Copy of a model whose head has only these classes, in this order. A model without a linear head raises a `ValueError`."""
    names, heads = classes_of_model(model.config), head_names(model)
    cut = with_new_head(copy.deepcopy(model), [names[label] for label in labels])
    for name in heads:
        head, part = model.get_submodule(name), cut.get_submodule(name)
        part.to(head.weight.device, head.weight.dtype)
        part.weight.copy_(head.weight[labels])
        if head.bias is not None:
            part.bias.copy_(head.bias[labels])
    return cut


def head_names(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers that give the logits: one, or several of the same size in distilled models."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    num_labels = model.config.num_labels
    heads = {name: layer.in_features for name, layer in linear.items() if layer.out_features == num_labels}
    if len({*heads.values()}) != 1:
        raise ValueError(
            f"The head of `{type(model).__name__}` cannot be replaced: {len(heads)} linear layers have {num_labels} outputs, as many as "
            "there are classes. Expected only those of the head."
        )
    return list(heads)


def is_timm(name: str) -> bool:
    """Whether a Hub id or folder has weights as timm saves them. If transformers' wrapper of timm saved them, they have a `model_type`."""
    config = Path(name, "config.json")
    if not config.is_file():
        return name.startswith("timm/")
    return "architecture" in (keys := read_json(config)) and "model_type" not in keys


def load_adapted(name: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """Model of a PEFT adapter merged into its base, with all parameters trainable. The base must be the one of its training."""
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights

    base_name = PeftConfig.from_pretrained(name).base_model_name_or_path
    if base_name is None:
        raise ValueError(f"The `adapter_config.json` of `{name}` names no base: add `base_model_name_or_path`.")
    base = load_model(base_name, trust_remote_code)
    record = None
    with suppress(EntryNotFoundError):  # also raised if offline and never downloaded
        record = read_json(Path(name, RUN_FILE) if Path(name).is_dir() else Path(hf_hub_download(name, RUN_FILE)))
    known, digest = (record or {}).get("base_digest"), model_digest(base)
    if known not in (None, digest):
        raise ValueError(
            f"The base `{base_name}` has changed since the adapter `{name}` was trained: its digest was {known}, and is {digest} now. "
            f"Restore the base, or train the adapter again. Without `{RUN_FILE}`, the base is not checked."
        )
    with weights_read(name):
        names = load_peft_weights(name, device="cpu").keys()
        adapted = PeftModel.from_pretrained(base, name)
    if differing := sorted(names ^ get_peft_model_state_dict(adapted).keys()):
        raise ValueError(
            f"The adapter `{name}` does not fit its base `{base_name}`: weights are missing or unexpected, {len(differing)} in all, such as "
            f"`{differing[0]}`."
        )
    return adapted.merge_and_unload().float().requires_grad_(True).eval()


def model_digest(model: PreTrainedModel, weights: str | None = None) -> str:
    """16 hexadecimal digits that identify the weights (with PEFT adapters merged), the class, and the configuration where it
    affects the output. Default values do not count, so that new options of transformers do not change the digest."""
    model = _merged(model)
    defaults = _as_json(type(model.config)().to_dict())
    config = {name: value for name, value in _computed(model.config.to_dict()).items() if value != defaults.get(name)}
    return json_digest([weights or weights_digest(model), type(model).__name__, config])


def base_digest(model: nn.Module) -> str | None:
    """Digest of the base of a PEFT model, which [`load_model`] checks. `None` without an adapter, or if training changes the base."""
    configs = getattr(model, "peft_config", {}).values()
    if not configs or any(getattr(config, "bias", "none") != "none" for config in configs):
        return None
    from peft.utils import ModulesToSaveWrapper

    base = copy.deepcopy(model)
    for name, module in list(base.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # `unload` would leave the trained copy
            base.set_submodule(name, module.original_module)
    base = base.unload()
    if {value.dtype for value in base.state_dict().values() if value.is_floating_point()} != {torch.float32}:
        return None
    return model_digest(base)


def weights_digest(model: PreTrainedModel) -> str:
    """16 hexadecimal digits that identify the weights (with PEFT adapters merged) in published results."""
    digest = hashlib.sha256()
    for tensor in _merged(model).state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _merged(model: PreTrainedModel) -> PreTrainedModel:
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "peft_config") else model


def _computed(config: dict) -> dict:
    """The part of a configuration that affects the output, as JSON values."""
    return {
        name: _computed(value) if isinstance(value, dict) else value
        for name, value in _as_json(config).items()
        if name not in NOT_COMPUTED and not name.startswith("_")
    }


def _as_json(settings: dict) -> dict:
    return json.loads(json.dumps(settings, default=str))
