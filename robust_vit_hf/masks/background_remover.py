"""Foreground masks by the background removers of rembg."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from .tokencut import MaskResult


class BackgroundRemover:
    """Masks where a background remover, a session of rembg, is at least half sure of the foreground.

    Source: https://github.com/danielgatis/rembg
    """

    def __init__(self, session: Any):
        self.session = session

    @classmethod
    def from_pretrained(cls, name: str) -> Self:
        """Load a model by its name in rembg, which downloads it once, or from an ONNX file of ISNet.

        Raises:
            ImportError: rembg is not installed.
            ValueError: rembg has no such model.
        """
        try:
            from onnxruntime import SessionOptions
            from rembg import new_session
            from rembg.sessions.dis_custom import DisCustomSession
        except ImportError as error:
            raise ImportError("rembg is not installed: `pip install 'robust-vit-hf[masks]'`.") from error
        if Path(name).suffix != ".onnx":
            return cls(new_session(name))

        class OfFile(DisCustomSession):
            @classmethod
            def download_models(cls, *args, **kwargs) -> str:
                return name  # of any folder, where rembg takes those of its own alone

        options = SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # its own would wait for those of torch
        return cls(OfFile("dis_custom", options, model_path=name))

    def __call__(self, images: list[Image.Image], rows: list[dict]) -> list[MaskResult]:
        """Make masks of RGB images of any sizes, in order. `rows`, an argument of all mask makers, is ignored."""
        return [MaskResult.of(np.asarray(self.session.predict(image)[0]) > 127) for image in images]
