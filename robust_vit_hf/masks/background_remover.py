"""Foreground masks by the background removers of rembg."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .tokencut import MaskResult


def background_remover(name: str) -> Callable[[list[Image.Image], list[dict]], list[MaskResult]]:
    """Load a mask maker by the name of a model in rembg, which downloads it once, or from an ONNX file of ISNet. Pixels whose foreground
    probability is at least 0.5 become foreground. A name that rembg does not know, and another file, raise a `ValueError`.

    Source: https://github.com/danielgatis/rembg
    """
    threads = torch.get_num_threads()
    from onnxruntime import SessionOptions
    from rembg import new_session
    from rembg.sessions.dis_custom import DisCustomSession

    torch.set_num_threads(threads)  # numba, which rembg imports, takes all cores for torch too

    class OfFile(DisCustomSession):
        @classmethod
        def download_models(cls, *args, **kwargs) -> str:
            return name  # rembg itself only loads files from its own folder

    try:
        if Path(name).suffix == ".onnx":
            options = SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()  # more threads would compete with those of torch
            session = OfFile("dis_custom", options, model_path=name)
            session.predict(Image.new("RGB", (8, 8), "gray"))  # other networks take images of other sizes
        else:
            session = new_session(name)
    except Exception as error:  # those of ONNX Runtime have no common class
        raise ValueError(f"`{name}` cannot be used as a model of rembg or an ONNX file of ISNet: {error}") from error
    return lambda images, rows: [MaskResult.of(np.asarray(session.predict(image)[0]) > 127) for image in images]
