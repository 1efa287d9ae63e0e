"""The paper's tables, figures and findings, next to its published figures."""
