"""Why attention cannot be studied, or is left out, and what to do about it."""

ANNOUNCE = "announce it by diffmech.attention.tap.announce"
NO_CALL = f"its forward made no attention call that can be seen; {ANNOUNCE}"
NO_PRODUCT = f"a softmax of scores whose product with values is not made by matmul, bmm or einsum; {ANNOUNCE}"
LOOSE = f"a softmax of what is not seen to be scores of queries and keys; if it is attention, {ANNOUNCE}"
NO_SOFTMAX = (
    "products of queries and keys that are multiplied without weights that sum to 1 (linear attention); if they are "
    f"normalised in another way, {ANNOUNCE}"
)
NO_ROWS = (
    "its weights do not sum to 1 over what they are multiplied with: a softmax over another axis than the keys, or "
    "weights that are changed after it"
)
COMPLEX = "its weights or values are complex numbers, of which statistics are not defined"
MAPPED = "it runs under torch.vmap, which hides the batch; call it on all images at once"
DROPS = "it drops attention at random (dropout_p) outside of training; give it dropout_p only where self.training"
GONE = (
    "did not run, unlike in the first pass of the study: the model attends otherwise at other timesteps (experts by "
    "timestep?) or on other images; give timesteps (capture.timesteps, ablation.timesteps) at which it makes the same "
    "calls, and study the others on their own"
)
