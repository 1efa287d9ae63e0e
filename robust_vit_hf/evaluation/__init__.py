"""Evaluation: sets under a protocol, one pass of a model over each, before against after, tables and plots."""

from .compare import Comparison
from .protocols import PRESETS, EvaluationSet, load_evaluation_set
from .run import SetResult, evaluate_sets


__all__ = ["PRESETS", "Comparison", "EvaluationSet", "SetResult", "evaluate_sets", "load_evaluation_set"]
