"""Layouts of images on disk and on the Hub: folders, archives and tables, and the official layouts of the known sets."""
