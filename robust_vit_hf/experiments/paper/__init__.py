"""What reproduces the paper and nothing else: findings, tables and figures, ablations."""
