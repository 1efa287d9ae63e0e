"""Loading of weights of transformers that reports what is missing, and refuses what does not fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedModel


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Context in which a model is loaded, so that the error of a missing one names it.

    Raises:
        OSError: the model does not exist.
    """
    try:
        yield
    except OSError as error:
        raise OSError(f"`{name}` cannot be loaded. {error}") from error


def load_checked(model_class: Any, name: str, **options) -> tuple[PreTrainedModel, dict[str, list]]:
    """Load a model of transformers.

    Args:
        model_class: class with `from_pretrained`.
        options: those of `from_pretrained`.

    Returns:
        The model, and its `missing_keys` and `unexpected_keys`. Missing weights are random.

    Raises:
        OSError: there is no such model.
        ValueError: the weights file is corrupt, or has other shapes; or the configuration has values that no model has.
    """
    try:
        with naming(name):
            model, loading = model_class.from_pretrained(
                name, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except UnpicklingError as error:
        raise ValueError(pickle_problem(name)) from error
    except (SafetensorError, EOFError, RuntimeError) as error:
        raise ValueError(f"`{name}` cannot be loaded. {type(error).__name__}: {error}") from error
    except (ArithmeticError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        # transformers builds the model before it looks at the values.
        raise ValueError(
            f"`{name}` cannot be loaded: its `config.json` may not describe a model. {type(error).__name__}: {error}"
        ) from error
    if mismatched := sorted(loading["mismatched_keys"]):
        shapes = "; ".join(
            f"`{key}` {tuple(found)}, expected {tuple(wanted)}" for key, found, wanted in mismatched[:4]
        )
        raise ValueError(f"The weights of `{name}` do not have the shapes of its `config.json`: {shapes}.")
    return model, loading


def pickle_problem(name: str) -> str:
    # torch's message suggests `weights_only=False`, which would run code in the file.
    return (
        f"`{name}` is not loaded: its pickle is no file of weights, but holds more than tensors, or is cut off. Nothing in it was "
        "run: take a copy with `model.safetensors` from a source that you trust."
    )
