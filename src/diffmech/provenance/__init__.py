"""Where an artifact comes from, and what of a study is packed so that others can check it."""
