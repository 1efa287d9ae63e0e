"""The server of the page: offline, on loopback unless told otherwise, with files that go when it ends."""

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
    """Context in which the page is served. Arguments are those of [`build_page`]; other models can be loaded in the page only
    where it listens on loopback.

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
        # Uploads and pictures lie there and nowhere else, and Gradio calls no server of its own.
        os.environ |= {
            "GRADIO_TEMP_DIR": str(Path(folder, "files")),
            "GRADIO_EXAMPLES_CACHE": str(Path(folder, "examples")),
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        import gradio as gr

        from .page import STYLE, build_page

        page = build_page(before, after, preset, options, choose_models=host in LOOPBACK)
        # A theme of Gradio names fonts of Google, which the page would fetch.
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
            _frontend=False,  # Gradio would ask its own page for an answer within 3 s, which a busy machine does not give
        )
        try:
            yield address
        finally:
            page.close(verbose=False)
