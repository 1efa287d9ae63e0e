"""Grids of runs, sweeps over them, and the report of their results."""
