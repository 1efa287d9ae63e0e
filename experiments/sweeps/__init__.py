"""Sweeps: trainings of a grid, the choice of their settings, and their report."""
