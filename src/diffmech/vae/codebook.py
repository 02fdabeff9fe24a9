"""The codebook of the VQ-VAE (van den Oord et al. 2017), whose codes follow moving averages (its appendix A.1).

A code is the moving mean of what it was chosen for. One that is hardly chosen any more starts anew at a place of the
batch, as in Dhariwal et al. 2020 (Jukebox), where without it most codes die. No code has a gradient.
"""

import torch
from torch import Tensor, nn

SMOOTHING = 1e-5  # of the counts, so that no code is divided by 0


class Codebook(nn.Module):
    """`codes` `(code, code_size)`, with the moving averages of how often each is chosen and of what for."""

    codes: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, code_size: int, *, decay: float, restart_below: float) -> None:
        super().__init__()
        self.decay, self.restart_below = decay, restart_below
        first = torch.randn(codes, code_size)
        # what the first batch does not choose starts anew in it, where codes start anew at all
        counts = torch.full((codes,), min(restart_below, 1.0) or 1.0)
        self.register_buffer("codes", first)
        self.register_buffer("counts", counts)
        self.register_buffer("sums", first * counts[:, None])

    def choose(self, encoded: Tensor) -> Tensor:
        """Return the number of the nearest code `(sample, y, x)` of what is encoded, `(sample, code_size, y, x)`."""
        rows = _rows(encoded)
        squares = rows.square().sum(1, keepdim=True) - 2 * rows @ self.codes.T + self.codes.square().sum(1)
        chosen = squares.argmin(1)
        return chosen.reshape(encoded.shape[0], *encoded.shape[2:])

    def look_up(self, chosen: Tensor) -> Tensor:
        """Return the codes `(sample, code_size, y, x)` of these numbers `(sample, y, x)`."""
        return self.codes[chosen].movedim(-1, 1)

    @torch.no_grad()
    def follow(self, encoded: Tensor, chosen: Tensor) -> None:
        """Move the codes towards what they were chosen for, and start those anew that are hardly chosen.

        New places are drawn by torch's generator from the batch.
        """
        rows, numbers = _rows(encoded.float()), chosen.flatten()
        counts = torch.zeros_like(self.counts).index_add_(0, numbers, torch.ones_like(rows[:, 0]))
        sums = torch.zeros_like(self.sums).index_add_(0, numbers, rows)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = self.counts < self.restart_below
        drawn = rows[torch.randint(len(rows), (len(self.counts),), device=rows.device)]
        self.counts.copy_(torch.where(dead, 1.0, self.counts))
        self.sums.copy_(torch.where(dead[:, None], drawn, self.sums))
        total = self.counts.sum()
        smoothed = (self.counts + SMOOTHING) / (total + len(self.counts) * SMOOTHING) * total
        self.codes.copy_(self.sums / smoothed[:, None])


def perplexity(chosen: Tensor, codes: int) -> Tensor:
    """Return exp of the entropy of the numbers of codes `(sample, y, x)`: how many are in use, in effect."""
    shares = torch.bincount(chosen.flatten(), minlength=codes).double() / chosen.numel()
    return torch.special.entr(shares).sum().exp()


def _rows(encoded: Tensor) -> Tensor:
    return encoded.float().movedim(1, -1).flatten(0, -2)
