"""Sections of further studies, one file each; a file's name is the name of the study and its key in config.yaml."""
