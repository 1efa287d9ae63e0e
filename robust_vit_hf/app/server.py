"""The server of the page: offline, on loopback by default, with files that are deleted when it ends."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .options import AppOptions


MAX_UPLOAD = "50mb"


def hosts_of(options: AppOptions) -> list[str]:
    """Names and addresses under which the page may be asked for: those that it listens on, and the allowed ones.

    Raises:
        OSError: the host is no address of this machine.
    """
    try:
        socket.create_server(
            (options.host, 0), family=socket.AF_INET6 if ":" in options.host else socket.AF_INET
        ).close()
    except OSError as error:
        raise OSError(f"`--host {options.host}` is no address of this machine: {error.strerror}.") from error
    hosts = {options.host, "localhost", "127.0.0.1"}
    if options.host in ("0.0.0.0", "::"):  # all addresses of this machine
        name = socket.gethostname()
        hosts |= {name, socket.getfqdn()}
        hosts |= {str(address[4][0]) for address in socket.getaddrinfo(name, None)}
    return [*sorted(hosts), *options.allowed_hosts]


@contextmanager
def running(options: AppOptions) -> Iterator[str]:
    """Context in which the page is served.

    Yields:
        The address of the page.

    Raises:
        OSError: the host is no address of this machine, the port is in use, or as [`Page`].
        ValueError: as [`Page`].
    """
    hosts = hosts_of(options)
    with tempfile.TemporaryDirectory(prefix="robust-vit-app-") as folder:
        # Keep all uploads and pictures there, and Gradio from calling its own servers.
        os.environ |= {
            "GRADIO_TEMP_DIR": str(Path(folder, "files")),
            "GRADIO_EXAMPLES_CACHE": str(Path(folder, "examples")),
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        import gradio as gr
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

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
            # Else a page elsewhere, whose name is made to mean this address, could ask for anything ("DNS rebinding").
            app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)]},
            _frontend=False,  # Gradio's startup check fails after 3 s, too short on a busy machine
        )
        try:
            yield address
        finally:
            page.close(verbose=False)
