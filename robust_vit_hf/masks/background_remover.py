"""Foreground masks by the background removers of rembg."""

from pathlib import Path
from typing import Protocol, Self

import numpy as np
from PIL import Image

from .tokencut import MaskResult


class RembgSession(Protocol):
    """A model of rembg."""

    def predict(self, img: Image.Image) -> list[Image.Image]: ...


class BackgroundRemover:
    """Masks where a background remover is at least half sure of the foreground.

    Source: https://github.com/danielgatis/rembg
    """

    def __init__(self, session: RembgSession):
        self.session = session

    @classmethod
    def from_pretrained(cls, name: str) -> Self:
        """Load a model by its name in rembg, which downloads it once, or from an ONNX file of ISNet.

        Raises:
            ImportError: rembg is not installed.
            ValueError: rembg has no such model.
        """
        try:
            from rembg import new_session
        except ImportError as error:
            raise ImportError("rembg is not installed: `pip install 'robust-vit-hf[masks]'`.") from error
        if Path(name).suffix == ".onnx":
            return cls(new_session("dis_custom", model_path=name))
        return cls(new_session(name))

    def __call__(self, images: list[Image.Image], rows: list[dict]) -> list[MaskResult]:
        """Make masks of RGB images of any sizes, in order. `rows`, an argument of all mask makers, is ignored."""
        return [MaskResult.of(np.asarray(self.session.predict(image)[0]) > 127) for image in images]
