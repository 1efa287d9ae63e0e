"""The server of the page: offline, on loopback by default, with files that are deleted when it ends."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from .options import AppOptions


MAX_UPLOAD = "50mb"


class OwnNames:
    """ASGI middleware that answers requests for an address, for `localhost`, and for names of this page alone. Otherwise a page elsewhere,
    whose name is made to mean this address, could ask for anything ("DNS rebinding"); that needs a name.

    Args:
        names: further names, such as that of a proxy; `*` for all.
    """

    def __init__(self, app, names: list[str]):
        self.app, self.names = app, {"localhost", *map(str.lower, names)}

    async def __call__(self, scope, receive, send) -> None:
        from starlette.responses import PlainTextResponse

        if scope["type"] in ("http", "websocket") and not self._is_own(dict(scope["headers"]).get(b"host", b"")):
            await PlainTextResponse("Invalid host header", status_code=400)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_own(self, header: bytes) -> bool:
        try:
            name = urlsplit(f"//{header.decode('latin-1')}").hostname or ""
        except ValueError:
            return False
        if "*" in self.names or name in self.names:
            return True
        try:
            return bool(ip_address(name))
        except ValueError:
            return False


def check_host(host: str) -> None:
    """Check that the page can listen on an address.

    Raises:
        OSError: it is none of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host.strip("[]"), 0), family=family).close()
    except OSError as error:
        raise OSError(f"`--host {host}` is no address of this machine: {error.strerror}.") from error


@contextmanager
def running(options: AppOptions) -> Iterator[str]:
    """Context in which the page is served.

    Yields:
        The address of the page.

    Raises:
        OSError: the host is no address of this machine, the port is in use, or as [`Page`].
        ValueError: as [`Page`].
    """
    check_host(options.host)
    with tempfile.TemporaryDirectory(prefix="robust-vit-app-") as folder:
        # Keep all uploads and pictures there, and Gradio from calling its own servers.
        os.environ |= {
            "GRADIO_TEMP_DIR": str(Path(folder, "files")),
            "GRADIO_EXAMPLES_CACHE": str(Path(folder, "examples")),
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        import gradio as gr
        from starlette.middleware import Middleware

        from .page import STYLE, Page

        page = Page(options).blocks
        # A theme of Gradio names fonts of Google, which the page would fetch.
        theme = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        _, address, _ = page.launch(
            server_name=options.host,
            server_port=options.port,
            theme=theme,
            css=STYLE,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            show_error=True,
            ssr_mode=False,
            footer_links=[],
            run_history=False,
            max_file_size=MAX_UPLOAD,
            app_kwargs={"middleware": [Middleware(OwnNames, names=[options.host, *options.allowed_hosts])]},
            _frontend=False,  # Gradio's startup check fails after 3 s, too short on a busy machine
        )
        try:
            yield address
        finally:
            page.close(verbose=False)
