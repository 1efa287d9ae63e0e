"""`robust-vit app`: the server of the page, offline and on loopback by default. Files of visitors are deleted after half an hour, and when
it ends."""

import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from ..models.model_names import BUNDLED_MODEL
from ..utils.processes import end_by_signals
from .options import LOOPBACK, AppOptions
from .samples import cached_run, newest_run


# Seconds between two looks for old uploads and pictures of visitors, and seconds after which they are deleted.
KEPT = (60, 1800)


def serve(options: AppOptions) -> str:
    """Print the page's address and serve it until a signal, or export it as a Space and return instructions."""
    if options.export is not None:
        from .export import write_space

        write_space(options.export, options.model, options.compare, options.protocol, options.diagnose)
        return f"{options.export}: upload it with `hf upload --repo-type space OWNER/NAME {options.export} .`"
    end_by_signals()  # so that the page's files are deleted
    if options.compare is None and options.model == BUNDLED_MODEL:
        after = newest_run(Path("runs"))
        if after is None:
            print("Without a finetuning in runs/, a cached one is shown, made once in about a minute.", flush=True)
            after = cached_run()
        options = replace(options, compare=str(after))
    with running(options) as address:
        print(f"The page is at {address} (Ctrl+C ends it).", flush=True)
        signal.pause()
    return ""


def own_names(app, names: Sequence[str]):
    """ASGI app that answers requests for the address that was connected to, and for `names` of this page alone (`*` for
    all). Otherwise a page elsewhere, whose name is made to mean this address, could ask for anything ("DNS rebinding"). Nor may another
    page ask under the right name: it cannot read the answer, but upload files."""
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
        else:  # checked as the name, which is asked for, is
            named = scope | {"headers": [(b"host", urlsplit(origin).netloc.encode())]}
            await trusted(answered)(named, receive, send)

    return guarded


@contextmanager
def running(options: AppOptions) -> Iterator[str]:
    """Context in which the page is served; its value is the address of the page."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    socket.create_server((options.host.strip("[]"), 0), family=family).close()  # Gradio's error would be about ports
    with tempfile.TemporaryDirectory(prefix="robust-vit-app-") as folder:
        # Keep all uploads and pictures there, and Gradio from calling its own servers.
        os.environ |= {
            "GRADIO_TEMP_DIR": str(Path(folder, "files")),
            "GRADIO_EXAMPLES_CACHE": str(Path(folder, "examples")),
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        import gradio as gr

        from .layout import Page

        @asynccontextmanager
        async def lifespan(app) -> AsyncIterator[None]:
            """Wrap the app before it listens. Middleware of `app_kwargs` would run after Gradio's, which answers CORS preflights."""
            app.middleware_stack = own_names(app.middleware_stack, [*LOOPBACK, options.host, *options.allowed_hosts])
            yield

        page = Page(options).blocks
        page.delete_cache = KEPT
        # A theme of Gradio names fonts of Google, which the page would fetch.
        theme = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        _, address, _ = page.launch(
            server_name=options.host,
            server_port=options.port,
            theme=theme,
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
            _frontend=False,  # Gradio's startup check fails after 3 s, too short on a busy machine
        )
        try:
            yield address
        finally:
            page.close(verbose=False)
