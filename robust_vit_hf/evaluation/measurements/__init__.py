"""Measurements of a model on a set, one per module."""
