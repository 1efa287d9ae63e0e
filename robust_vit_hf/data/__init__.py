"""Datasets: the sets of the paper by name, any images with masks, their checks and their preparation."""
