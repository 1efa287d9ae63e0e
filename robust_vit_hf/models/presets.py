"""Names of the presets of preprocessing."""

from typing import Literal


# `paper`: that of the released code. `native`: that of the pretraining. See `make_image_processor`.
Preset = Literal["paper", "native"]
