"""Models and image processors by name, conversion of weights, and mixtures of two models."""
