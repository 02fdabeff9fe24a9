"""Global effects: images sampled again from the same seeds with heads removed while they come about."""
