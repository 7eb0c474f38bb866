"""Functions on tensors, without parameters. Letters: B batch, T time, D channels, H heads, P patch, V vocabulary."""
