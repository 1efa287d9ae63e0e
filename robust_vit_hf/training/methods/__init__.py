"""Finetuning methods, one module for each value of `--method`. See `docs/methods.md` for adding one."""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .base import Method


def method_names() -> list[str]:
    """Names of the modules in this folder, without the slow import."""
    return [module.name for module in iter_modules(__path__) if module.name != "base"]


def load_method(name: str) -> type["Method"]:
    """Load the method defined in a module of this folder, its only subclass of [`Method`]."""
    from .base import Method

    module = import_module(f".{name}", __name__)
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    (method,) = (value for value in own if isinstance(value, type) and issubclass(value, Method))
    return method
