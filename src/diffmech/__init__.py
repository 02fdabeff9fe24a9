"""diffmech: what each attention head of a diffusion model does, at which timestep, and whether it matters."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffmech.attention.store import open_attention

__all__ = ["open_attention"]


def __getattr__(name: str) -> Any:
    # Lazy: `import diffmech` must stay light, since parsing the Snakefile does it.
    if name == "open_attention":
        from diffmech.attention.store import open_attention

        return open_attention
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
