"""The main study, of attention heads, as its rules see it: which files it makes, and which jobs make them."""
