"""Relevance maps of vision transformers, and other attribution methods."""

# Here, so that the command line does not import torch for the names.
ATTRIBUTION_METHOD_NAMES = ("gae", "rollout", "last_layer", "input_gradient", "legrad")
