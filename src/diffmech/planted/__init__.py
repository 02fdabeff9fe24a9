"""Planted circuits: denoisers whose heads are built by hand, and the images they are built for."""
