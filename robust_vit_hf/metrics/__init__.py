"""Streaming metrics on tensors or arrays."""
