"""Training a network: its loop, its checkpoints, its images, and the record of what it was trained on."""
