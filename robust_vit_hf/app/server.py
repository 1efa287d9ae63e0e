"""The server of the page: offline, on loopback by default, with files that are deleted when it ends."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .options import AppOptions


MAX_UPLOAD = "50mb"


@contextmanager
def running(options: AppOptions) -> Iterator[str]:
    """Context in which the page is served.

    Yields:
        The address of the page.

    Raises:
        OSError: the port is in use, or as [`Page`].
        ValueError: as [`Page`].
    """
    with tempfile.TemporaryDirectory(prefix="robust-vit-app-") as folder:
        # Keep all uploads and pictures there, and Gradio from calling its own servers.
        os.environ |= {
            "GRADIO_TEMP_DIR": str(Path(folder, "files")),
            "GRADIO_EXAMPLES_CACHE": str(Path(folder, "examples")),
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        import gradio as gr

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
            _frontend=False,  # Gradio's startup check fails after 3 s, too short on a busy machine
        )
        try:
            yield address
        finally:
            page.close(verbose=False)
