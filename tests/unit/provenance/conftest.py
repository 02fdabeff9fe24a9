"""A small study as Snakemake would have left it: its files, the records of their jobs, what their logs say."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from diffmech.artifacts import provenance, write_store
from diffmech.provenance.chain import sha256

VERSIONS = {"diffmech": "0.1.0", "torch": "2.13.0"}


def record(rule, inputs, start, params=(), log=(), checksums=None):
    """Return a record as Snakemake keeps it of a file."""
    return {
        "rule": rule,
        "input": list(inputs),
        "log": list(log),
        "params": [repr(value) for value in params],
        "starttime": start,
        "endtime": start + 2.0,
        "input_checksums": checksums or {},
        "incomplete": False,
        "shellcmd": None,
    }


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Its records, by path; the working folder is that of the study."""
    monkeypatch.chdir(tmp_path)
    for folder in ("results/logs/page", "results/report", "given", "workflow_scripts"):
        os.makedirs(folder)
    write_store("results/features.zarr.zip", xr.Dataset({"a": ("x", np.ones(2))}, attrs={"provenance": provenance()}))
    Path("given/photos.csv").write_text("file\na.png\n")
    Path("results/table.csv").write_text("head,p\nh00,0.01\n")
    Path("results/report.html").write_text("<p>what was found</p>")
    Path("results/report/findings.json").write_text("[]")
    Path("workflow_scripts/page.py").write_text("from diffmech.errors import StoreError\n")
    told = {"params": {"code": "0" * 16, "seed": 3}, "recorded": ["'" + "0" * 16 + "'", "3"], "versions": VERSIONS}
    Path("results/logs/page/all.json").write_text(json.dumps(told))
    page = record(
        "page",
        ["results/table.csv"],
        300.0,
        ("0" * 16, 3),
        ["results/logs/page/all.log"],
        {"results/table.csv": "sha256:" + sha256("results/table.csv")},
    )
    return {
        "results/report.html": page,
        "results/report/findings.json": {**page, "starttime": 300.01},
        "results/table.csv": record("tabulate", ["results/features.zarr.zip"], 200.0, ({"alpha": 0.05},)),
        "results/features.zarr.zip": record("features", ["given/photos.csv"], 100.0),
    }
