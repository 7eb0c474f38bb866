"""Training: one loop, its config, and its run folder. Never imports inference; samples come from a function that is passed in."""
