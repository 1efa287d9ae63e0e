"""Objects that are pasted in other ways, and the licences of the photographs
(experiments/benchmarks/other_images.py)."""

import numpy as np
import pytest
from PIL import Image

from experiments.benchmarks import other_images as images
from experiments.benchmarks.desktop_photographs import licence


COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2014, A Group http://example.org/
License: GPL-2+

Files: nature/Aqua.jpg
       nature/Dune.jpg
Copyright: 2008, A Person <person@example.org>
           2009, Another
License: CC-BY-4.0
 Text of the licence.
"""


def test_the_last_paragraph_that_names_a_file_has_its_licence():
    assert licence(COPYRIGHT, "mate/nature/Dune.jpg") == {
        "licence": "CC-BY-4.0",
        "holders": "2008, A Person 2009, Another",
    }
    assert licence(COPYRIGHT, "Grey.jpg") == {"licence": "GPL-2+", "holders": "2014, A Group"}
    with pytest.raises(ValueError, match=r"Grey\.jpg"):
        licence(COPYRIGHT.replace("Files: *", "Files: debian/*"), "Grey.jpg")


@pytest.mark.parametrize("number", [0, 41])
def test_ways_share_the_crop_and_hide_a_part_of_the_object(number):
    rng = np.random.default_rng(0)
    photograph = Image.fromarray(rng.integers(0, 256, (300, 480, 3), dtype=np.uint8))
    crop = np.asarray(images.crop(photograph, np.random.default_rng([images.SEED, number])))
    pasted = {way: np.asarray(images.compose(number, photograph, way)) for way in images.WAYS}
    differs = {way: (image != crop).any(axis=-1) for way, image in pasted.items()}
    visible = (pasted["occluded"] == pasted["plain"]).all(axis=-1)[differs["plain"]].mean()
    assert 0.45 < visible < 0.8
    assert 0.15 < differs["scaled"].sum() / differs["plain"].sum() < 0.35
    assert differs["lit"].sum() > 1.05 * differs["plain"].sum()  # by its shadow
