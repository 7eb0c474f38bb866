"""Faults injected into runs and files: what is killed resumes to the same weights, and what is damaged or hostile is refused."""
