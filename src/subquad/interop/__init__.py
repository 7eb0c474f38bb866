"""Checkpoints of other code. A kind of official checkpoint is one file here and one line in the table of ``official.py``."""
