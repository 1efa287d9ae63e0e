"""Grids of runs, sweeps over them, and reports of the results."""
