"""Diagnosis: whether a model decides by the background of your images."""
