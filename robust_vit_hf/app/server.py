"""The server of the page: offline, on loopback by default, with files that are deleted when it ends."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..models.preprocessing import Preset
from .options import GalleryOptions


LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_UPLOAD = "50mb"


@contextmanager
def running(
    before: str,
    after: str,
    preset: Preset,
    options: GalleryOptions,
    host: str = "127.0.0.1",
    port: int | None = None,
) -> Iterator[str]:
    """Context manager that serves the page. Arguments are those of [`build_page`]. Visitors can load other models only
    if the server listens on loopback.

    Args:
        host: address to listen on.
        port: port to listen on; a free one from 7860 on by default.

    Yields:
        The address of the page.

    Raises:
        OSError: the port is in use, or as [`build_page`].
        ValueError: as [`build_page`].
    """
    with tempfile.TemporaryDirectory(prefix="robust-vit-app-") as folder:
        # Keep all uploads and pictures there, and Gradio from calling its own servers.
        os.environ |= {
            "GRADIO_TEMP_DIR": str(Path(folder, "files")),
            "GRADIO_EXAMPLES_CACHE": str(Path(folder, "examples")),
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        import gradio as gr

        from .page import STYLE, build_page

        page = build_page(before, after, preset, options, choose_models=host in LOOPBACK)
        # Gradio's themes would fetch Google fonts.
        theme = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
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
