"""The conditioning tokens of our denoisers: one for the domain and one per attribute. Ours.

The token of attribute k with value a is base_k + a * slope_k, so a value between 0 and 1 lies on a line; an unknown
value (NaN) has a token of its own, and so has an unknown domain (-1). Classifier-free guidance uses the unknown tokens
only.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class AttributeTokens(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Turns a domain and attribute values into the sequence that cross-attention reads, `(sample, token, channel)`."""

    @register_to_config
    def __init__(self, attributes: list[str], domains: list[str], width: int) -> None:
        super().__init__()
        # Unit variance, as the inputs of the key and value projections are elsewhere normalised.
        self.base = nn.Parameter(torch.randn(len(attributes), width))
        self.slope = nn.Parameter(torch.randn(len(attributes), width))
        self.null = nn.Parameter(torch.randn(len(attributes), width))
        self.domain = nn.Parameter(torch.randn(len(domains), width))
        self.domain_null = nn.Parameter(torch.randn(width))

    def forward(self, domain: Tensor, values: Tensor) -> Tensor:
        """Return tokens `(sample, 1 + attribute, width)`, the domain first.

        `domain` `(sample,)` is an index or -1, `values` `(sample, attribute)` are in [0, 1] or NaN.
        """
        if values.shape != (len(domain), len(self.base)):
            raise ValueError(
                f"values have shape {tuple(values.shape)}; expected ({len(domain)}, {len(self.base)}), "
                "one row per domain index and one column per attribute"
            )
        unknown = values.isnan()[..., None]
        attribute = torch.where(unknown, self.null, self.base + values.nan_to_num()[..., None] * self.slope)
        table = torch.cat([self.domain, self.domain_null[None]])
        first = table[domain.where(domain >= 0, len(self.domain))]
        return torch.cat([first[:, None], attribute], dim=1)
