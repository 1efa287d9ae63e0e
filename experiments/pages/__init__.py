"""Blocks of text and tables in README, docs and the pages of this folder, made from committed results."""
