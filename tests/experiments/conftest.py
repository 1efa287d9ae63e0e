"""Fixtures of sweeps, which several files use."""

from .test_sweep import inputs, swept  # noqa: F401
