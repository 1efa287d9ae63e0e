"""The computation of each metric, batch by batch, on tensors or arrays."""
