"""Training: one loop, its config, and its run folder. What is learned is an objective; samples of text come from a function passed in."""
