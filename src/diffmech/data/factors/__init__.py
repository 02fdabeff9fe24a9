"""Image sets whose generative factors are known, so that each can be changed alone."""
