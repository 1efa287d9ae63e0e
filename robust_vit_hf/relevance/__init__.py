"""Relevance maps of vision transformers, other attribution methods, and their visualisation."""
