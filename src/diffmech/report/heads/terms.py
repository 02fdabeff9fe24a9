"""The plain names of the study's technical terms, and the order in which colours are given to labels."""

VARIANTS = {
    "effective_heads_self": "effective heads of self-attention",
    "effective_heads_cross": "effective heads of cross-attention",
    "effective_heads_joint": "effective heads of joint attention",
    "effective_keys_self": "effective share of keys of self-attention",
    "effective_keys_cross": "effective share of keys of cross-attention",
    "effective_keys_joint": "effective share of keys of joint attention",
    "activation_participation": "activation participation",
}

# In the order of the theme's categorical colours, of which the last is grey.
LABELS = ("edge", "texture", "semantic", "local", "global", "positional", "sink", "mirror", "intensity", "unassigned")


def attention(kind: object) -> str:
    """Return the name of a kind of attention in a sentence."""
    return f"{kind} attention" if kind == "joint" else f"{kind}-attention"
