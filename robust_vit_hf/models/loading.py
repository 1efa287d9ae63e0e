"""Loading of models by name, Hub id or folder, with a check that no weights are missing."""

import re
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, CLIPConfig, CLIPVisionConfig, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from ..data.label_mapping import check_class_names
from ..relevance.architectures import UNRECORDED_ATTENTION
from ..utils.files import read_json
from ..utils.finite import non_finite_weights
from .checked import load_checked, naming, pickle_problem
from .clip import TEMPLATES, load_zero_shot
from .model_digest import model_digest
from .model_names import MODELS, check_no_folder, resolve
from .timm_files import load_timm
from .timm_weights import timm_to_hf


BASE_FILE = "base_model.json"  # beside an adapter: the digest of its base
HEAD = "classifier"  # end of the names of classification heads in the supported architectures


def load_model(
    name: str,
    trust_remote_code: bool = False,
    *,
    classes: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
) -> PreTrainedModel:
    """Image classification model in fp32.

    Args:
        name: name in [`MODELS`], Hub id or folder. timm weights are converted, and PEFT adapters are merged into their
            base, which is loaded in the same way.
        trust_remote_code: whether to run model code from the source.
        classes: names of classes, for a new head: the zero-shot one of CLIP, see [`load_zero_shot`], and for any other model a
            linear one with zeros, to be trained (`--method finetune`).
        templates: texts for the names of the classes of CLIP, see [`load_zero_shot`].

    Raises:
        OSError: there is no such model.
        ValueError: weights do not fit, see [`timm_to_hf`], or are NaN or infinite; classes are not named; the name is CLIP's, without
            classes, or SigLIP's; there are templates for another model than CLIP; the model's head cannot be replaced; or as
            [`check_no_folder`].
    """
    check_no_folder(name)
    has_texts = classes is not None and _has_text_encoder(resolve(name), trust_remote_code)
    if templates is not None and not has_texts:
        problem = "there are none" if classes is None else f"`{name}` has no text encoder"
        raise ValueError(f"Templates are texts for the classes of CLIP, and {problem}: leave them out.")
    if classes is None:
        model = _load(name, trust_remote_code)
    elif has_texts:
        model = load_zero_shot(resolve(name), classes, TEMPLATES if templates is None else templates)
    else:
        model = with_new_head(_load(name, trust_remote_code, with_head=False), classes)
    names = model.config.id2label
    if unnamed := [label for label in range(len(names)) if not isinstance(names.get(label), str)]:
        raise ValueError(
            f"`id2label` in the `config.json` of `{name}` has no text for the class {unnamed[0]}, expected one for each from 0 to "
            f"{len(names) - 1}."
        )
    if bad := non_finite_weights(model):
        raise ValueError(
            f"`{name}` has {len(bad)} weights with NaN or infinite values, such as `{bad[0]}`: its training has diverged, or "
            "the file is damaged. Take another checkpoint."
        )
    return model


def _has_text_encoder(name: str, trust_remote_code: bool) -> bool:
    """Whether a Hub id or folder holds CLIP with both encoders.

    Raises:
        OSError: there is no such model.
        ValueError: it is SigLIP, or a file.
    """
    if Path(name).is_file():
        raise ValueError(
            f"`{name}` is a file, expected a folder or Hub id for a new head: write a folder of it first, by `robust-vit convert "
            f"{name} --output_dir FOLDER`."
        )
    if name in MODELS or is_timm(name) or find_adapter_config_file(name) is not None:
        return False
    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    if config.model_type.startswith("siglip"):
        raise ValueError(_siglip_problem(name))
    return isinstance(config, CLIPConfig)


def _siglip_problem(name: str) -> str:
    return (
        f"`{name}` is SigLIP, which pools the patches by an attention with a probe of its own, and has no token whose relevance could "
        "be propagated: take CLIP."
    )


def _load(name: str, trust_remote_code: bool, with_head: bool = True) -> PreTrainedModel:
    if name in MODELS and MODELS[name].load is not None:
        return MODELS[name].load()
    name = resolve(name)
    if is_timm(name):
        return timm_to_hf(*load_timm(name)).float().eval()
    with naming(name):
        adapter = find_adapter_config_file(name)
    if adapter is not None:
        return load_adapted(name, trust_remote_code)
    options = {"trust_remote_code": trust_remote_code, "dtype": torch.float32}
    model = load_complete(name, with_head, **options)
    if type(model).__name__ in UNRECORDED_ATTENTION:  # their attention implementation cannot be switched later
        model = load_complete(name, with_head, attn_implementation="eager", **options)
    return model


def load_complete(name: str, with_head: bool = True, **options) -> PreTrainedModel:
    """Load an image classification model of transformers, refusing randomly initialised weights.

    Args:
        with_head: whether the classification head must be there too.
        options: those of `from_pretrained`.

    Raises:
        OSError, ValueError: as [`load_checked`].
        ValueError: weights are missing, such as the head's.
    """
    model, loading = load_checked(AutoModelForImageClassification, name, **options)
    missing = sorted(key for key in loading["missing_keys"] if with_head or HEAD not in key)
    if missing and model.config.model_type.startswith("siglip"):
        raise ValueError(_siglip_problem(name))
    if missing and isinstance(model.config, CLIPConfig):
        raise ValueError(
            f"`{name}` is CLIP, whose classes are texts: name them with `load_model({name!r}, classes=[…])`, or write a classifier "
            f"by `robust-vit convert {name} --classes FILE --output_dir FOLDER`."
        )
    if missing and isinstance(model.config, CLIPVisionConfig):
        raise ValueError(
            f"`{name}` is the image encoder of CLIP alone, and its classes would be texts: give the folder or Hub id of CLIP with both "
            "encoders, with classes."
        )
    if missing:
        first = ", ".join(f"`{key}`" for key in missing[:4])
        raise ValueError(
            f"`{name}` lacks {len(missing)} weights of a `{type(model).__name__}`, such as {first}. Expected a model with a "
            "trained head: train it first, with a new head by `robust-vit convert … --classes FILE`."
        )
    if layers := sorted(key for key in loading["unexpected_keys"] if re.search(r"\blayers?\.\d+\.", key)):
        raise ValueError(
            f"`{name}` holds {len(layers)} weights of layers that its `config.json` does not have, such as `{layers[0]}`."
        )
    return model


def with_new_head(model: PreTrainedModel, classes: Sequence[str]) -> PreTrainedModel:
    """Give a model a linear head for other classes. Its weights are zeros: all classes have the same probability until it is trained.

    Raises:
        ValueError: classes are not named apart, or the model has no head of one linear layer.
    """
    config = model.config
    config.id2label = dict(enumerate(check_class_names(classes)))
    config.label2id = {name: label for label, name in config.id2label.items()}
    model.num_labels = config.num_labels
    heads = [name for name, module in model.named_modules() if name.endswith(HEAD) and isinstance(module, nn.Linear)]
    if not heads:
        raise ValueError(f"`{type(model).__name__}` has no linear classification head that could be replaced.")
    for name in heads:
        head = nn.Linear(model.get_submodule(name).in_features, config.num_labels)
        model.set_submodule(name, head.requires_grad_(True))
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return model


def is_timm(name: str) -> bool:
    """Whether a Hub id or folder holds timm weights.

    Raises:
        ValueError: its `config.json` is not valid JSON.
    """
    config = Path(name, "config.json")
    if not config.is_file():
        return name.startswith("timm/")
    return "architecture" in read_json(config)


def load_adapted(name: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load the base of a PEFT adapter with the adapter merged. All parameters are trainable.

    Raises:
        ModuleNotFoundError: PEFT is not installed.
        OSError: the adapter or base does not exist.
        ValueError: the adapter names no base, does not fit it, was trained on another one, or its file is corrupt.
    """
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights

    base_name = PeftConfig.from_pretrained(name).base_model_name_or_path
    if base_name is None:
        raise ValueError(f"The adapter `{name}` does not name its base in `adapter_config.json`: write it there.")
    base = load_model(base_name, trust_remote_code)
    _check_base(name, base_name, base)
    try:
        found = load_peft_weights(name, device="cpu").keys()
        adapted = PeftModel.from_pretrained(base, name)
    except UnpicklingError as error:
        raise ValueError(pickle_problem(name)) from error
    except (SafetensorError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"The adapter `{name}` does not fit `{base_name}`. {type(error).__name__}: {error}"
        ) from error
    if differing := sorted(found ^ get_peft_model_state_dict(adapted).keys()):
        first = ", ".join(f"`{key}`" for key in differing[:4])
        raise ValueError(
            f"The adapter `{name}` does not fit `{base_name}`: {len(differing)} weights are missing or unexpected, such as "
            f"{first}."
        )
    return adapted.merge_and_unload().float().requires_grad_(True).eval()


def _check_base(name: str, base_name: str, base: PreTrainedModel) -> None:
    """Refuse a base other than the one that the adapter was trained on, if its digest is recorded."""
    file = Path(name, BASE_FILE)
    if not Path(name).is_dir():
        try:
            file = Path(hf_hub_download(name, BASE_FILE))
        except EntryNotFoundError:  # also when offline and never downloaded
            return
    known, now = (read_json(file) or {}).get("digest"), model_digest(base)
    if known not in (None, now):
        raise ValueError(
            f"The adapter `{name}` was trained over another `{base_name}`: its digest was {known}, and is {now} now. Put "
            "the base back that it was trained over, or train it again. A copy of the adapter without its "
            f"`{BASE_FILE}` is not checked."
        )
