"""Fixtures of sweeps, which several files use."""
