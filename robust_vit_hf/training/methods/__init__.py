"""Methods of finetuning: a module each, which `--method` names. `docs/methods.md` shows how to add one."""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .base import Method


def method_names() -> list[str]:
    """Names of the modules of this folder, which are not imported: that takes seconds."""
    return [module.name for module in iter_modules(__path__) if module.name != "base"]


def load_method(name: str) -> type["Method"]:
    """The method that a module of this folder defines.

    Raises:
        ValueError: the module does not define one subclass of [`Method`].
    """
    from .base import Method

    module = import_module(f".{name}", __name__)
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    methods = [value for value in own if isinstance(value, type) and issubclass(value, Method)]
    if len(methods) != 1:
        raise ValueError(
            f"`{module.__file__}` defines {len(methods)} subclasses of `Method`: a method's module defines one."
        )
    return methods[0]
