"""Measures of disentanglement, each over one representation and the factors behind it."""
