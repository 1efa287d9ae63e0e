"""The paper's tables, figures and findings, beside its published figures."""
