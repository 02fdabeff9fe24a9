"""The example in docs/notebook.md is run as it stands, on a capture."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_captures import Capture

from diffmech.attention.store import open_attention

PAGE = Path(__file__).parents[3] / "docs" / "notebook.md"


def test_the_documented_analysis_runs_in_ten_lines(
    latents: Callable[..., Path], capture: Capture, capsys: pytest.CaptureFixture[str]
) -> None:
    store = capture(latents(timesteps=(120, 520)))
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    assert sum(bool(line.strip()) for line in code[1].splitlines()) <= 10
    names: dict[str, object] = {}
    exec(code[1].replace("results/attention/faces/synthetic_faces", str(store)), names)
    farthest = max(
        (float(node["distance"].sel(timestep=520, head=head).mean()), str(head))
        for node in open_attention(store).children.values()
        if node.attrs["kind"] == "self"
        for head in node["head"].values
    )
    assert f"farthest at t = 520: {farthest[1]}" in capsys.readouterr().out
    assert (np.abs(np.asarray(names["correlation"])) <= 1 + 1e-6).all()
