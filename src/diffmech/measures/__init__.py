"""Measures of heads, one module each, found by their files: what each computes, its table and its chart."""
