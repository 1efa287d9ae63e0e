"""Hooks for the duration of a forward pass, for models that several threads share."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


_registering = threading.Lock()


@contextmanager
def hooks_of_this_thread(*hooks: tuple[Callable, Callable]) -> Iterator[None]:
    """Context manager with hooks that act only in this thread: pairs of `module.register_forward_hook` or the like, and the hook."""
    thread = threading.get_ident()

    def of_this_thread(hook: Callable) -> Callable:
        return lambda *arguments: hook(*arguments) if threading.get_ident() == thread else None

    with ExitStack() as handles:
        with _registering:  # torch numbers hooks without a lock: two could get the same number, and one would be lost
            for register, hook in hooks:
                handles.callback(register(of_this_thread(hook)).remove)
        yield
