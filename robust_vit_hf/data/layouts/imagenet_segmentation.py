"""ImageNet-Segmentation (Guillaumin et al., 2014): 4,276 images with masks in one MATLAB file, `gtsegs_ijcv.mat`."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..schema import Source, encode_image


FILE_NAME = "gtsegs_ijcv.mat"


def open_segmentation(path: Path) -> Source:
    """The set from its MATLAB file, or from a folder with it."""
    import h5py

    if path.is_dir():
        path = path / FILE_NAME
    try:
        with h5py.File(path) as file:
            count = len(file["/value/img"])
    except OSError as error:
        raise ValueError(f"`{path}` is not in MATLAB's format 7.3: {error}. Download it again.") from error
    parts = [range(first, min(first + 100, count)) for first in range(0, count, 100)]
    return Source(partial(mat_rows, path=path), parts, path.stat().st_mtime_ns)


def mat_rows(shards: list[range], path: Path) -> Iterator[dict]:
    """Rows with image and mask as BMP. Each worker opens the file itself, since HDF5 handles do not survive a fork."""
    import h5py

    for shard in shards:
        with h5py.File(path) as file:
            for index in shard:
                # MATLAB is column-major, so axes are reversed: (3, W, H). A mask is a cell inside a cell.
                image = file[file["/value/img"][index, 0]][()].transpose(2, 1, 0)
                mask = file[file[file["/value/gt"][index, 0]][0, 0]][()].transpose(1, 0)
                name = f"{path.name}/{index}"
                pixels = {"image": image.astype(np.uint8), "mask": 255 * mask.astype(np.uint8)}
                row = {column: encode_image(Image.fromarray(pixels[column]), f"{name}.bmp") for column in pixels}
                yield row | {"file_name": name}
