"""Data sets: those of the paper by name, any with masks by path or id, and the check before training."""

from .masked import check_columns, check_rows, load_masked_dataset
from .sets import image_sets, load_image_set


__all__ = ["check_columns", "check_rows", "image_sets", "load_image_set", "load_masked_dataset"]
