"""Copies of images are found by their pixels."""

import datasets
import numpy as np
from PIL import Image

from robust_vit_hf.data.image_copies import Pictures


def test_copies_in_other_formats(tmp_path):
    """Losslessly saved again, turned by EXIF, or embedded; but not images that look alike, nor broken files."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 16, 3), np.uint8).repeat(40, axis=0).repeat(40, axis=1)
    Image.fromarray(pixels).save(tmp_path / "0.jpg", quality=90)
    with Image.open(tmp_path / "0.jpg") as saved:
        exact = np.array(saved)
    Image.fromarray(exact).save(tmp_path / "png.png")
    turned, exif = Image.fromarray(np.rot90(exact)), Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    changed = exact.copy()
    changed[0, 0, 0] ^= 1
    Image.fromarray(changed).save(tmp_path / "changed.png")
    (tmp_path / "broken.png").write_bytes(b"no image")

    def of(*images):
        return Pictures.of(
            datasets.Dataset.from_dict({"image": images}, datasets.Features({"image": datasets.Image()}))
        )

    first = of(str(tmp_path / "0.jpg"), str(tmp_path / "broken.png"), None)
    second = of({"bytes": (tmp_path / "png.png").read_bytes(), "path": None}, str(tmp_path / "turned.png"))
    assert second.count_in(first) == 2 and first.count_in(second) == 1
    assert of(str(tmp_path / "changed.png"), str(tmp_path / "broken.png")).count_in(first) == 0
    assert first.count_in(of()) == 0
