"""The finetuning: configuration, losses, trainer and checkpoints."""
