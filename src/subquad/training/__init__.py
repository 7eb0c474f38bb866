"""Training: one loop, its config, and the run folder that it leaves. Never imports inference; samples come as a function handed in.

``config`` needs no torch: import it, and everything else, by module.
"""
