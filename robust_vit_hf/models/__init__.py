"""Models and image processors by name, conversion of weights, and weight interpolation."""
