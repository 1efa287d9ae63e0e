"""Finetuning: configuration, losses, trainer and checkpoints."""
