"""Records of the page: its components, what its events call, and how it is served."""

import signal
import socket
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gradio as gr

from .golden import Recorder


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LISTS = "inputs outputs show_progress_on"
OF_EVENT = "api_name api_visibility trigger_mode concurrency_limit concurrency_id targets"


def serve(record: Recorder, name: str, words: list[str]) -> None:
    """Serve the page by a command that does not wait for a signal, on a free port where the words have `PORT`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launch, handlers = gr.Blocks.launch, {number: signal.getsignal(number) for number in SIGNALS}

    def note(page: gr.Blocks, **given: Any) -> tuple:
        record.add(f"{name}: page", described(page))
        shown = {key: plain(value) for key, value in given.items() if key not in ("theme", "app_kwargs")}
        shown["server_port"] = "PORT" if shown["server_port"] == port else shown["server_port"]
        record.add(f"{name}: server", shown | {"files kept": list(page.delete_cache), "font": fonts(given)})
        return launch(page, **given)

    with patch.object(gr.Blocks, "launch", note), patch("signal.pause"):
        record.run(name, ["app", *(str(port) if word == "PORT" else word for word in words)])
    for number, handler in handlers.items():
        signal.signal(number, handler)


def fonts(given: dict[str, Any]) -> list[str]:
    return [str(font) for font in (*given["theme"]._font, *given["theme"]._font_mono)]


def described(page: gr.Blocks) -> list:
    """Arguments of each component, and names of functions, inputs and outputs of each event."""
    shown = []
    for block in page.blocks.values():
        given = {key: value for of in block._constructor_args for key, value in of.items()}
        shown.append({"type": type(block).__name__} | {key: plain(value) for key, value in given.items()})
    for event in page.fns.values():
        called = getattr(event.fn, "func", event.fn)
        of_event = {key: getattr(event, key) for key in OF_EVENT.split()}
        of_event |= {"calls": called.__name__, "with": getattr(event.fn, "keywords", {})}
        of_event |= {key: [of._id for of in getattr(event, key) or ()] for key in LISTS.split()}
        shown.append(of_event)
    return shown


def plain(value: Any) -> Any:
    """Captions of a gallery, and names of files."""
    if isinstance(value, list) and value and isinstance(value[0], tuple) and not isinstance(value[0][0], str):
        return [caption for _, caption in value]
    return value.name if isinstance(value, Path) else value
