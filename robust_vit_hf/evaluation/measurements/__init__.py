"""What is measured of a side on a set: a module a measurement."""
