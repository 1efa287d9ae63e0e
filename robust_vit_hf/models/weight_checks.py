"""Checks of loaded weights: damaged files, pickles that hold code, missing weights, and other shapes."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """Context in which weights are read, so that errors name their source."""
    try:
        yield
    except OSError as error:
        raise OSError(f"`{name}` cannot be loaded. {error}") from error
    except UnpicklingError as error:
        # torch's message suggests `weights_only=False`, which would run code in the file.
        raise ValueError(
            f"`{name}` is not loaded: its pickle holds more than tensors and plain values, or is cut off. Nothing in it was run: "
            "save the `state_dict()` alone, preferably as safetensors."
        ) from error
    except (SafetensorError, EOFError, RuntimeError) as error:
        raise ValueError(f"`{name}` cannot be loaded. {type(error).__name__}: {error}") from error


def load_checked(
    model_class: Any, name: str, optional: Callable[[PreTrainedModel], list[str]] | None = None, **options
) -> PreTrainedModel:
    """Load with `from_pretrained`, and refuse missing weights, except of the modules that `optional` names, other shapes and layers."""
    with reading(name):
        model, loading = model_class.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    if mismatched := sorted(loading["mismatched_keys"]):
        key, found, wanted = mismatched[0]
        raise ValueError(
            f"{len(mismatched)} weights of `{name}` do not have the shapes of its `config.json`, such as `{key}`: {tuple(found)}, "
            f"expected {tuple(wanted)}."
        )
    spared = set() if optional is None else {*optional(model)}
    if missing := sorted(key for key in loading["missing_keys"] if key.rpartition(".")[0] not in spared):
        raise ValueError(
            f"`{name}` lacks {len(missing)} weights of a `{type(model).__name__}`, such as `{missing[0]}`. Expected a model with a "
            "trained head; for CLIP, and for a new head to train, name the classes: `load_model(…, classes=[…])`, or "
            "`robust-vit convert … --classes FILE`."
        )
    if layers := sorted(key for key in loading["unexpected_keys"] if re.search(r"\blayers?\.\d+\.", key)):
        raise ValueError(
            f"`{name}` holds {len(layers)} weights of layers that its `config.json` does not have, such as `{layers[0]}`."
        )
    return model
