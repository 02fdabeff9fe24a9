"""The denoisers: built, trained, imported, loaded, sampled from, and checked."""
