"""Names of the attribution methods, for the command line, without importing torch."""

ATTRIBUTION_METHOD_NAMES = ("gae", "rollout", "last_layer", "input_gradient", "legrad")
