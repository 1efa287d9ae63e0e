"""Layouts of the paper's sets on disk and on the Hub, one per module."""
