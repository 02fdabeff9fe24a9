"""Intervals, permutation tests, multiplicity and effect sizes: used by every study, depending on none."""
