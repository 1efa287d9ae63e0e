"""Loading of models by name, Hub id or folder, with their own head or a new one; and digests of models."""

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
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    PreTrainedModel,
)
from transformers.utils.peft_utils import find_adapter_config_file

from ..data.classes import check_class_names, classes_of_model
from ..relevance.architectures import UNRECORDED_ATTENTION, unwrap_pretrained
from ..utils.files import json_digest, read_json, weights_read
from .added_classifiers import CLIPZeroShotForImageClassification
from .model_names import MODELS, check_model, resolve
from .timm_format import OtherArchitecture, load_timm, timm_to_hf


BASE_FILE = "base_model.json"  # beside an adapter: the digest of its base
# Configuration values that change no logits: names, paths, versions, initialisation, and output format.
# `architectures`, set on saving, is covered by the model's class, and `dtype` by the weights.
NOT_COMPUTED = {
    *("architectures", "attn_implementation", "auto_map", "dtype", "finetuning_task", "id2label", "initializer_range"),
    *("label2id", "output_attentions", "output_hidden_states", "problem_type", "return_dict", "torch_dtype"),
    *("transformers_version", "use_cache"),  # the Trainer sets the latter
}
TEMPLATES = ("a photo of a {}.",)


def load_model(
    name: str,
    trust_remote_code: bool = False,
    *,
    classes: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
) -> PreTrainedModel:
    """Image classification model in fp32.

    Args:
        name: name in [`MODELS`], Hub id or folder, also of timm, or of PEFT adapters, which are merged into their base.
        trust_remote_code: whether to run model code from the source.
        classes: names of classes, for a new head: of CLIP a zero-shot one, and otherwise a linear one of zeros, to train.
        templates: texts for the names of the classes of CLIP, see [`load_zero_shot`].

    Raises:
        OSError: there is no such model.
        ValueError: the name is of a file or of no model's folder, or a folder's too; weights do not fit; the head is for several labels
            or values, or cannot be replaced.
    """
    if name in MODELS and any(Path(name, file).is_file() for file in ("config.json", "adapter_config.json")):
        raise ValueError(f"`{name}` is a registered model, and a folder here: give `./{name}` for the folder.")
    if name not in MODELS:
        check_model(name)
    is_clip = False
    if classes is not None and name not in MODELS and not is_timm(name) and find_adapter_config_file(name) is None:
        is_clip = isinstance(AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code), CLIPConfig)
    if templates is not None and not is_clip:
        raise ValueError(f"`templates` are texts for the classes of CLIP, and `{name}` is another model.")
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
        classes: names of the classes as they stand in a text.
        templates: texts with `{}` for the name. The embeddings of several are averaged, as by the authors of CLIP.
    """
    classes, templates = check_class_names(classes), list(templates)
    if not templates or any("{}" not in template for template in templates):
        raise ValueError(f"Expected templates with `{{}}` for the name of the class, but got {templates}.")
    clip, tokenizer = load_checked(CLIPModel, name, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(name)
    names = {"id2label": dict(enumerate(classes)), "label2id": {name: label for label, name in enumerate(classes)}}
    settings = clip.config.vision_config.to_dict() | {"projection_dim": clip.config.projection_dim}
    config = CLIPVisionConfig.from_dict(settings | names)
    config.templates = templates  # kept with the model
    model = CLIPZeroShotForImageClassification._from_config(config).eval()
    model.vision_model.load_state_dict(clip.vision_model.state_dict())
    model.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    with torch.no_grad():
        for embedding, label in zip(model.text_embeds, classes, strict=True):
            texts = [template.replace("{}", label) for template in templates]
            output = clip.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt"))
            embeds = output if isinstance(output, torch.Tensor) else output.pooler_output
            embedding.copy_(F.normalize(F.normalize(embeds, dim=-1).mean(dim=0), dim=-1))
        model.logit_scale.copy_(clip.logit_scale)
    distances = torch.cdist(model.text_embeds, model.text_embeds, compute_mode="donot_use_mm_for_euclid_dist")
    if len(equal := (distances < 1e-4).triu(1).nonzero()):  # between which no image could decide
        first, second = (classes[index] for index in equal[0])
        raise ValueError(
            f"`{name}` has the same embedding for `{first}` and `{second}`: CLIP reads no capitals, so give names that differ in more; "
            "or the model's tokenizer files are missing, from which transformers makes an empty tokenizer: put them there."
        )
    return model


def check_single_label(model: nn.Module) -> nn.Module:
    """The model, if its logits are those of classes that exclude each other."""
    config = unwrap_pretrained(model).config
    if config.problem_type in ("multi_label_classification", "regression") or config.num_labels < 2:
        raise ValueError(
            f"The model has {config.num_labels} output(s) for `{config.problem_type or 'regression'}`: expected a classifier of two or "
            "more classes, of which each image has one."
        )
    if config.id2label and sorted(config.id2label) != list(range(config.num_labels)):
        raise ValueError(
            f"`id2label` in the `config.json` of the model has the classes {min(config.id2label)} to {max(config.id2label)}: expected 0 to "
            f"{config.num_labels - 1}, the places of the logits."
        )
    return model


def _load(name: str, trust_remote_code: bool, with_head: bool = True) -> PreTrainedModel:
    """Model in fp32, whose head may be untrained unless `with_head`."""
    if name in MODELS and MODELS[name].load is not None:
        return MODELS[name].load()
    name = resolve(name)
    with weights_read(name):
        if is_timm(name):
            with suppress(OtherArchitecture):  # transformers runs others through timm
                return timm_to_hf(*load_timm(name)).float().eval()
        if find_adapter_config_file(name) is not None:
            return load_adapted(name, trust_remote_code)
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    if timm_arguments := getattr(config, "model_args", None):
        timm_arguments.pop("num_classes", None)  # transformers would give it twice
    if not with_head:
        config.num_labels = config.num_labels or 2  # timm has models without a head
    options = {"config": config, "trust_remote_code": trust_remote_code, "dtype": torch.float32}
    options["optional"] = None if with_head else head_names
    model = load_checked(AutoModelForImageClassification, name, **options)
    if type(model).__name__ in UNRECORDED_ATTENTION:  # their attention implementation cannot be switched later
        model = load_checked(AutoModelForImageClassification, name, attn_implementation="eager", **options)
    return model


def load_checked(
    model_class: Any, name: str, optional: Callable[[PreTrainedModel], list[str]] | None = None, **options
) -> PreTrainedModel:
    """Load a model; missing weights, other shapes, and layers that the configuration lacks raise an error.

    Args:
        optional: names the modules of the model whose weights may be missing.
    """
    with weights_read(name):
        model, loading = model_class.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    problem, spared = None, set()
    if optional is not None and not loading["mismatched_keys"]:
        spared = {*optional(model)}
    if mismatched := sorted(loading["mismatched_keys"]):
        key, shape, expected = mismatched[0]
        problem = f"holds {len(mismatched)} weights of other shapes than its `config.json` says, such as `{key}`: {tuple(shape)}, expected {tuple(expected)}."
    elif missing := sorted(key for key in loading["missing_keys"] if key.rpartition(".")[0] not in spared):
        problem = (
            f"lacks {len(missing)} weights of a `{type(model).__name__}`, such as `{missing[0]}`. Expected a model with a trained head; "
            "for CLIP, and for a new head to train, name the classes: `load_model(…, classes=[…])`, or `robust-vit convert … --classes FILE`."
        )
    elif layers := sorted(key for key in loading["unexpected_keys"] if re.search(r"\blayers?\.\d+\.", key)):
        problem = f"holds {len(layers)} weights of layers that its `config.json` does not have, such as `{layers[0]}`."
    if problem is not None:
        raise ValueError(f"`{name}` {problem}")
    return model


def with_new_head(model: PreTrainedModel, classes: Sequence[str]) -> PreTrainedModel:
    """Give a model a linear head of zeros for other classes, which have the same probability until it is trained."""
    config, heads = model.config, head_names(model)
    config.id2label = dict(enumerate(check_class_names(classes)))
    config.label2id = {name: label for label, name in config.id2label.items()}
    if hasattr(config, "label_names"):  # models of timm are loaded by these names
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
    """Copy of a model whose head has these of its classes, in this order, and no others.

    Raises:
        ValueError: the model has no linear head.
    """
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
    """Names of the linear layers that give the logits: one, or in distilled models several that read as many features."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    num_labels = model.config.num_labels
    heads = {name: layer.in_features for name, layer in linear.items() if layer.out_features == num_labels}
    if len({*heads.values()}) != 1:
        raise ValueError(
            f"`{type(model).__name__}` has {len(heads)} linear layers with {num_labels} outputs, as many as it has classes: "
            "expected only those of its head, to replace them."
        )
    return list(heads)


def is_timm(name: str) -> bool:
    """Whether a Hub id or folder holds timm weights, as timm saves them; those of transformers' wrapper of timm have a `model_type`."""
    config = Path(name, "config.json")
    if not config.is_file():
        return name.startswith("timm/")
    return "architecture" in (keys := read_json(config)) and "model_type" not in keys


def load_adapted(name: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """The base of a PEFT adapter, checked to be that of its training, with the adapter merged. All parameters are trainable."""
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights

    base_name = PeftConfig.from_pretrained(name).base_model_name_or_path
    if base_name is None:
        raise ValueError(f"The adapter `{name}` does not name its base in `adapter_config.json`: write it there.")
    base = load_model(base_name, trust_remote_code)
    known, digest = (_record_of_base(name) or {}).get("digest"), model_digest(base)
    if known not in (None, digest):
        raise ValueError(
            f"The adapter `{name}` was trained over another `{base_name}`: its digest was {known}, and is {digest} now. Put the base back "
            f"that it was trained over, or train it again. Without `{BASE_FILE}`, the base is not checked."
        )
    with weights_read(name):
        names = load_peft_weights(name, device="cpu").keys()
        adapted = PeftModel.from_pretrained(base, name)
    if differing := sorted(names ^ get_peft_model_state_dict(adapted).keys()):
        raise ValueError(
            f"The adapter `{name}` does not fit `{base_name}`: {len(differing)} weights are missing or "
            f"unexpected, such as `{differing[0]}`."
        )
    return adapted.merge_and_unload().float().requires_grad_(True).eval()


def _record_of_base(adapter: str) -> dict | None:
    """What is recorded of the base that an adapter in a folder or on the Hub was trained on, if anything."""
    if Path(adapter).is_dir():
        return read_json(Path(adapter, BASE_FILE))
    with suppress(EntryNotFoundError):  # also when offline and never downloaded
        return read_json(Path(hf_hub_download(adapter, BASE_FILE)))
    return None


def model_digest(model: PreTrainedModel, weights: str | None = None) -> str:
    """16 hexadecimal digits that change with the weights, merged ones for PEFT, the class, and the configuration where
    it affects the output. Defaults do not count, so that new options of transformers do not change the digest."""
    model = _merged(model)
    defaults = _as_json(type(model.config)().to_dict())
    config = {name: value for name, value in _computed(model.config.to_dict()).items() if value != defaults.get(name)}
    return json_digest([weights or weights_digest(model), type(model).__name__, config])


def weights_digest(model: PreTrainedModel) -> str:
    """16 hexadecimal digits that identify the weights, merged ones for PEFT, in published results."""
    digest = hashlib.sha256()
    for tensor in _merged(model).state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _merged(model: PreTrainedModel) -> PreTrainedModel:
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "peft_config") else model


def _computed(config: dict) -> dict:
    """Values of a configuration, also nested, that affect the output, as JSON values."""
    return {
        name: _computed(value) if isinstance(value, dict) else value
        for name, value in _as_json(config).items()
        if name not in NOT_COMPUTED and not name.startswith("_")
    }


def _as_json(settings: dict) -> dict:
    return json.loads(json.dumps(settings, default=str))
