"""Atomic writes, what may be published, processes, and the environment of a run."""
