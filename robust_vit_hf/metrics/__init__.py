"""The metrics of `eval/`, also over sets that are added batch by batch."""
