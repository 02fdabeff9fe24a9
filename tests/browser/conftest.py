"""The invented study of the report's unit tests serves the browser too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "report"))
