"""The server of the page: offline, on loopback by default, with files of visitors that are deleted after half an hour, and when it ends."""

import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from .options import LOOPBACK, AppOptions


# Seconds between two looks for old uploads and pictures of visitors, and seconds after which they are deleted.
KEPT = (60, 1800)


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
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        socket.create_server((options.host.strip("[]"), 0), family=family).close()
    except OSError as error:
        raise OSError(f"`--host {options.host}` is no address of this machine: {error.strerror}.") from error
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
