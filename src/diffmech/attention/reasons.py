"""Why attention cannot be studied, or is left out, and what to do about it."""

ANNOUNCE = "announce it by diffmech.attention.tap.announce"
NO_CALL = f"its forward made no attention call that can be seen; {ANNOUNCE}"
NO_PRODUCT = (
    "a softmax of scores whose product with values is not made by matmul, bmm or einsum of two, or whose values are "
    f"each query's own; if all queries attend to the same keys, {ANNOUNCE}"
)
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
NEGATIVE = "some of its weights are below 0: they are changed after the softmax, and no shares of attention"
BY_QUERY = (
    "its weights are multiplied with values that differ by query (relative positions on values), so that what its "
    "heads write is no mean of one value per key, as which alone it can be studied"
)
ROWS = (
    "{} consecutive rows of what its one head writes are one token after it: the queries of as many heads stand in one "
    "axis (multi-query attention); bring query, key and value to (sample, head, token, channel)"
)
NESTED = "its query, key or value is a nested tensor; give all images of a batch in one plain tensor, with a mask"
MASK = "its mask is a CausalBias, which hides what it masks; give is_causal=True, or a plain tensor as attn_mask"
SPARSE = "its weights are a sparse tensor, of which statistics are not computed; keep them dense"
ANNOUNCED = (
    "it announced a copy of what scaled_dot_product_attention returned, which is seen already; leave announce out"
)
