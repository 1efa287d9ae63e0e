"""Relevance maps of vision transformers, other attribution methods, and how they are shown."""
