"""Evaluation: models before and after finetuning on evaluation sets, with tables and plots."""
