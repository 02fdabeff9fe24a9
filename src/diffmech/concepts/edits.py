"""What sets of images are called in the stores of this study, and how their images are asked for a concept."""

from typing import Literal

import numpy as np

from diffmech.config.studies.concepts import Objective

# asked: for the concept. base: without it. weak: for a little of it.
Way = Literal["asked", "base", "weak"]
# How images are asked for the concept where an edit should take it away or bring it.
TARGET: dict[Objective, Way] = {"erase": "asked", "amplify": "weak"}
# The edit, none, none of further seeds, the closed form, as many weights at random, and a search for something else.
OWN, ORIGINAL, REFERENCE, UCE, RANDOM, CONTROL = "own", "original", "reference", "uce", "random", "control"
TEXT = np.dtypes.StringDType()
