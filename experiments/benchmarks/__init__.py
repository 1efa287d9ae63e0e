"""Measurements of this project, with their results."""
