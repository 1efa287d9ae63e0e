"""Pictures and text in figures."""

import numpy as np

from robust_vit_hf.utils.plotting import save_picture_grid


def test_captions_are_no_mathematics(tmp_path):
    """Which matplotlib would read between two dollars, and not be able to draw."""
    save_picture_grid([[("$_{$.jpg", np.zeros((4, 4, 3)))]], tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
