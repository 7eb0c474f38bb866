"""Comparisons: models times data at one budget, from one file, run cell by cell into one table and one page."""
