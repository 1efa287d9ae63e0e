"""Evaluation: sets under a protocol, one pass of a model over each, before against after, tables and plots."""
