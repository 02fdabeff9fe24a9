"""Concept attribution: which weights carry or suppress a concept, and what is left without them."""
