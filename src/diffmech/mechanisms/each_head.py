"""What measures are made of: each head at each timestep in each domain, and what is stored of it. Ours."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from diffmech.artifacts import open_store
from diffmech.errors import StoreError
from diffmech.mechanisms.captured import open_domains, read, sites_of, timesteps_of


def each_head(
    stores: Iterable[Path | str], quantity: str
) -> Iterator[tuple[str, str, int, Float[np.ndarray, "*place"]]]:
    """Yield domain, head, timestep and the mean over images of a stored `quantity`, of `received` (key,).

    `stores` are those of the attention of all domains; each says itself of which it is. Heads of sites without the
    quantity are left out. Raises StoreError where a store is not whole, where domains differ in sites or timesteps, and
    where no site has the quantity.
    """
    by_domain: dict[str, list[Path]] = {}
    for store in stores:
        by_domain.setdefault(str(open_store(store).attrs["domain"]), []).append(Path(store))
    for domain, tree in open_domains(by_domain).items():
        having = [site for site in sites_of(tree) if quantity in tree.children[site.name].dataset]
        if not having:
            raise StoreError(f"{by_domain[domain][0]}: no site has {quantity}; name a quantity that is captured")
        for site in having:
            for timestep in timesteps_of(tree):
                means = read(tree, site, quantity, timestep).mean(axis=0, dtype=np.float64)
                for head, mean in zip(site.heads, means, strict=True):
                    yield domain, head, timestep, np.asarray(mean)
