"""The encoder and the decoder of every family, and the discriminator of FactorVAE.

Convolutions of 4 x 4 with stride 2 halve the image, as in the networks that most papers share (Burgess et al. 2018,
arXiv 1804.03599), and the decoder mirrors them. Each layer is one module with its activation inside, under a name of
its own (`LAYERS`), so that what a layer gives to the next is the output of that module, which
`diffmech.vae.patching` reads and replaces.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from diffmech.config.vae import VaeNetworkConfig
from diffmech.errors import ModelError

ImageShape = tuple[int, int, int]


def encoder(image_shape: ImageShape, config: VaeNetworkConfig) -> nn.Sequential:
    """Return images `(sample, channel, y, x)` -> means and log-variances of the posterior, `(sample, 2 latent)`.

    Its layers are `conv1`, ..., `hidden` and `posterior`. Raises ModelError where the image cannot be halved so often.
    """
    layers = _convolutions(image_shape, config)
    channels, height, width = _grid(image_shape, config)
    layers["hidden"] = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, config.hidden), nn.ReLU())
    layers["posterior"] = nn.Linear(config.hidden, 2 * config.latents)
    return nn.Sequential(layers)


def decoder(image_shape: ImageShape, config: VaeNetworkConfig) -> nn.Sequential:
    """Return latents `(sample, latent)` -> what the likelihood of each pixel is made of, `(sample, channel, y, x)`.

    For the Bernoulli likelihood these are logits, for the Gaussian one means. Its layers are `hidden`, `grid`,
    `deconv1`, ... and, last, `image`.
    """
    channels, height, width = _grid(image_shape, config)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["hidden"] = nn.Sequential(nn.Linear(config.latents, config.hidden), nn.ReLU())
    layers["grid"] = nn.Sequential(
        nn.Linear(config.hidden, channels * height * width), nn.ReLU(), nn.Unflatten(1, (channels, height, width))
    )
    return nn.Sequential(layers | _deconvolutions(image_shape, config))


def grid_encoder(image_shape: ImageShape, config: VaeNetworkConfig, code_size: int) -> nn.Sequential:
    """Return images -> what a code is looked up for at each place, `(sample, code_size, y, x)`: the VQ-VAE's encoder.

    Its layers are `conv1`, ... and `posterior`, as every encoder's last is called.
    """
    layers = _convolutions(image_shape, config)
    _grid(image_shape, config)
    layers["posterior"] = nn.Conv2d(config.channels[-1], code_size, 1)
    return nn.Sequential(layers)


def grid_decoder(image_shape: ImageShape, config: VaeNetworkConfig, code_size: int) -> nn.Sequential:
    """Return codes `(sample, code_size, y, x)` -> what the likelihood of each pixel is made of, for a VQ-VAE."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["grid"] = nn.Sequential(nn.Conv2d(code_size, config.channels[-1], 1), nn.ReLU())
    return nn.Sequential(layers | _deconvolutions(image_shape, config))


def grid_shape(image_shape: ImageShape, config: VaeNetworkConfig) -> tuple[int, int]:
    """Return height and width of the last convolution's output. Raises ModelError as `encoder` does."""
    return _grid(image_shape, config)[1:]


def discriminator(latents: int, layers: int, width: int) -> nn.Sequential:
    """Return latents `(sample, latent)` -> logits `(sample, 1)` that they come from the aggregate posterior and not
    from the product of its marginals (Kim & Mnih 2018, appendix A: leaky ReLU of slope 0.2)."""
    sizes = [latents, *[width] * layers]
    parts: list[nn.Module] = []
    for inward, outward in pairwise(sizes):
        parts += [nn.Linear(inward, outward), nn.LeakyReLU(0.2)]
    return nn.Sequential(*parts, nn.Linear(width, 1))


def layer_names(network: nn.Sequential) -> tuple[str, ...]:
    """Return the names of the layers of an encoder or a decoder, from its input on."""
    return tuple(name for name, _ in network.named_children())


def posterior(encoded: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and log-variances, each `(sample, latent)`, of an encoder's output `(sample, 2 latent)`."""
    mean, log_variance = encoded.float().chunk(2, dim=1)
    return mean, log_variance


def sample_posterior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return one draw `(sample, latent)` of each posterior, by torch's own generator (the reparametrisation trick)."""
    return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)


def _convolutions(image_shape: ImageShape, config: VaeNetworkConfig) -> OrderedDict[str, nn.Module]:
    sizes = [image_shape[0], *config.channels]
    return OrderedDict(
        (f"conv{place}", nn.Sequential(nn.Conv2d(inward, outward, 4, 2, 1), nn.ReLU()))
        for place, (inward, outward) in enumerate(pairwise(sizes), start=1)
    )


def _deconvolutions(image_shape: ImageShape, config: VaeNetworkConfig) -> OrderedDict[str, nn.Module]:
    sizes: Sequence[int] = [*reversed(config.channels), image_shape[0]]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for place, (inward, outward) in enumerate(pairwise(sizes), start=1):
        last = place == len(config.channels)
        convolution = nn.ConvTranspose2d(inward, outward, 4, 2, 1)
        layers["image" if last else f"deconv{place}"] = convolution if last else nn.Sequential(convolution, nn.ReLU())
    return layers


def _grid(image_shape: ImageShape, config: VaeNetworkConfig) -> tuple[int, int, int]:
    _, height, width = image_shape
    factor = 2 ** len(config.channels)
    if height % factor or width % factor:
        raise ModelError(
            f"vae.network.channels: images of {height} x {width} do not halve {len(config.channels)} times; "
            f"give images whose sides are multiples of {factor}, or fewer channels"
        )
    return config.channels[-1], height // factor, width // factor
