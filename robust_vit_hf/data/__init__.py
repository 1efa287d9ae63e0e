"""Datasets: the paper's sets by name, other images with masks, checks and preparation."""
