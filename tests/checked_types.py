"""How calls of the numerical rooms are checked against their annotations in tests; installed by conftest.py."""

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

# numpy gives a scalar for an array without axes, and a whole number is also a `float`, as type checkers have it.
checked = beartype(
    conf=BeartypeConf(hint_overrides=FrozenDict({np.ndarray: np.ndarray | np.generic}), is_pep484_tower=True)
)
