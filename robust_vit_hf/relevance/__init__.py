"""Relevance maps of vision transformers, other attribution methods, and their visualisation."""

# For the command line, which does not import torch for names.
ATTRIBUTION_METHOD_NAMES = ("gae", "rollout", "last_layer", "input_gradient", "legrad")
