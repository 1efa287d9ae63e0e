"""Names of the attribution methods, which the command line reads without waiting for torch."""

ATTRIBUTION_METHOD_NAMES = ("gae", "rollout", "last_layer", "input_gradient", "legrad")
