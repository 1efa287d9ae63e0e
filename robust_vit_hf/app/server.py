"""`robust-vit app`: the server of the page, on loopback by default, and its export as a Hub Space."""

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import requires, version
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from ..diagnosis.example_strip import EXAMPLES_FILE
from ..finetuning import finetune
from ..models import emoji_shift_model as bundled
from ..models.image_processors import Protocol, resolve_protocol
from ..models.model_names import BUNDLED_MODEL, MODELS, registered_of, resolve
from ..training.recipes import list_recipes, train_arguments
from ..utils.files import RESULTS_FILE, RUN_FILE, atomic_folder, cache_of, read_json
from ..utils.privacy import is_hub_id
from ..utils.processes import end_by_signals
from .options import LOOPBACK, AppOptions
from .other_backgrounds_tab import diagnosis_folder


# Seconds between two searches for old uploads and pictures of visitors, and their age in seconds when they are deleted.
KEPT = (60, 1800)


def serve(options: AppOptions) -> str:
    """Print the page's address and serve it until a signal, or export it as a Space and return instructions."""
    if options.export is not None:
        write_space(options.export, options.model, options.compare, options.protocol, options.diagnose)
        return f"{options.export}: upload it with `hf upload --repo-type space OWNER/NAME {options.export} .`"
    end_by_signals()  # so that the page's files are deleted
    if options.compare is None and options.model == BUNDLED_MODEL:
        after = newest_run(Path("runs"))
        if after is None:
            print("No finetuning is in runs/: the app shows one that it makes once, in about a minute.", flush=True)
            after = cached_run()
        options = replace(options, compare=str(after))
    with running(options) as address:
        print(f"The page is at {address} (Ctrl+C ends it).", flush=True)
        signal.pause()
    return ""


def newest_run(folder: Path) -> Path | None:
    """The newest complete finetuning of the bundled model in a folder."""
    runs = [file for file in folder.glob(f"*/{RUN_FILE}") if registered_of(read_json(file)) == BUNDLED_MODEL]
    newest = max(runs, key=lambda file: file.stat().st_mtime, default=None)
    return newest and newest.parent


def cached_run(**options) -> Path:
    """Folder of the bundled model finetuned by its recipe, which the first call does, with `options` of `robust-vit train`."""
    recipe = list_recipes()[BUNDLED_MODEL]
    folder = cache_of((recipe, Path(bundled.__file__))) / "finetuned"
    if not (folder / RUN_FILE).is_file():
        shown = {"control": False, "images_per_set": 50, "report_to": "none", "save_strategy": "no"}
        with atomic_folder(folder) as partial:
            finetune(*train_arguments(recipe, output_dir=str(partial), **shown | options))
    return folder


def own_names(app, names: Sequence[str]):
    """ASGI app that answers only requests for the address of the connection or for `names` (`*` for all), which prevents "DNS rebinding", and
    none from pages of other sites, which could not read the answers, but could upload files."""
    from starlette.datastructures import Headers
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    async def guarded(scope, receive, send) -> None:
        connected, _ = scope.get("server") or ("", None)
        hosts = [f"[{name.strip('[]')}]" if ":" in name else name for name in (*names, connected)]
        trusted = partial(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)

        async def answered(_, receive, send) -> None:
            await trusted(app)(scope, receive, send)

        origin = None if scope["type"] == "lifespan" else Headers(scope=scope).get("origin")
        if origin is None:
            await answered(scope, receive, send)
        else:  # the origin is checked like the host name of the request
            named = scope | {"headers": [(b"host", urlsplit(origin).netloc.encode())]}
            await trusted(answered)(named, receive, send)

    return guarded


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

        from .layout import Page

        @asynccontextmanager
        async def lifespan(app) -> AsyncIterator[None]:
            """Wrap the app before it listens. Middleware in `app_kwargs` would run after Gradio's, which answers CORS preflights."""
            app.middleware_stack = own_names(app.middleware_stack, [*LOOPBACK, options.host, *options.allowed_hosts])
            yield

        page = Page(options).blocks
        page.delete_cache = KEPT
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
            app_kwargs={"lifespan": lifespan},
            _frontend=False,  # Gradio checks the server for 3 s at the start, which fails on a busy machine
        )
        try:
            yield address
        finally:
            page.close(verbose=False)


def write_space(
    folder: Path, before: str, after: str, protocol: Protocol | None, diagnose: Path | None = None
) -> None:
    """Write a Space for models of the Hub or registered ones to a new or empty folder. It contains this package, which no index has."""
    for name in (before, after):
        if name not in MODELS and not is_hub_id(name):
            raise ValueError(
                f"`{name}` is not a Hub id, and a Space cannot load a folder of this machine: upload it with `robust-vit push {name} "
                "OWNER/NAME`, and give that id."
            )
    protocol = resolve_protocol(protocol, before, after)
    ids = [name for name in map(resolve, (before, after)) if name not in MODELS]
    with atomic_folder(folder) as space:
        facts = {"before": before, "after": after, "protocol": protocol, "diagnose": ""}
        facts |= {"models": "\n".join(f"- {name}" for name in ids), "sdk_version": version("gradio")}
        if diagnose is not None:
            place = diagnosis_folder(diagnose)
            facts["diagnose"] = "diagnose=Path(__file__).with_name('diagnosis'), "
            (space / "diagnosis").mkdir()
            for name in (RESULTS_FILE, EXAMPLES_FILE):
                shutil.copy(place / name, space / "diagnosis" / name)
        for name, template in (("README.md", "README.md"), ("app.py", "app.py.txt")):
            text = Path(__file__).with_name("space").joinpath(template).read_text(encoding="utf-8").format(**facts)
            (space / name).write_text(text, encoding="utf-8")
        lines = requirements(BUNDLED_MODEL in (before, after))
        (space / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        package = Path(__file__).parents[1]
        shutil.copytree(package, space / package.name, ignore=shutil.ignore_patterns("__pycache__"))


def requirements(with_backbone: bool) -> list[str]:
    """Requirements of this package in a Space, without the SDK, and with a package that has the weights of the backbone if needed."""
    lines = []
    for line in requires("robust-vit-hf"):
        requirement = Requirement(line)
        extras = ("", "train", "demo", *(["data"] if requirement.name == "timm" else []))
        needed = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)
        if needed and requirement.name != "robust-vit-hf":
            lines.append(f"{requirement.name}{requirement.specifier}")
    if with_backbone:
        lines.append(bundled.INSTALL_BACKBONE.rpartition(" ")[2])
    return sorted(lines, key=str.lower)
