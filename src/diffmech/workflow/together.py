"""Jobs that share a job of a cluster: the first that loads a denoiser works for the others while it has it. Ours.

Snakemake starts a Python of its own for every job, also for those that a group puts on one node together, and each
would import and load all over again. A job that knows what else its group is to make can make it ahead: in a hidden
folder beside the place where it belongs, named after this group, so that no other run ever takes it. When the turn of
another member comes, it finds its result and moves it into place, by which it is that job's output like any other. What
is not there, or was made for another group, is computed as if nobody had tried.
"""

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

TOGETHER = "DIFFMECH_TOGETHER"  # the variable of the environment in which the members of a group are told of each other
OPTION = "--target-jobs"


def tell_group(arguments: Sequence[str]) -> None:
    """Tell the jobs of this group of each other, if there are several: Snakemake's `arguments` name them here only."""
    after = list(arguments)[arguments.index(OPTION) + 1 :] if OPTION in arguments else []
    jobs = []
    for job in takewhile(lambda word: not word.startswith("--"), after):
        rule, _, wildcards = job.partition(":")
        jobs.append([rule, dict(pair.split("=", 1) for pair in wildcards.split(",") if "=" in pair)])
    if len(jobs) > 1:
        os.environ[TOGETHER] = json.dumps({"group": uuid.uuid4().hex, "jobs": jobs})


def other_members(rule: str, own: Mapping[str, str], *, but_for: str) -> list[dict[str, str]]:
    """Return the wildcards of the group's other jobs of `rule` that are as its `own` but for the wildcard `but_for`."""
    jobs = json.loads(os.environ.get(TOGETHER) or "{}").get("jobs", [])
    alike = {name: value for name, value in own.items() if name != but_for}
    return [
        wildcards
        for name, wildcards in jobs
        if name == rule
        and wildcards != dict(own)
        and {key: value for key, value in wildcards.items() if key != but_for} == alike
    ]


def made_ahead(output: Path | str) -> Path | None:
    """Return where another member of this group puts `output` before its turn; None for a job by itself."""
    group = json.loads(os.environ.get(TOGETHER) or "{}").get("group")
    path = Path(output)
    # Like the folder in which an output is written (`diffmech.artifacts`), which a later job clears away.
    return path.parent / f".{path.name}.{group}" / path.name if group else None


def take_ahead(output: Path | str) -> bool:
    """Move `output` into place if a member of this group has made it; return whether it did."""
    ahead = made_ahead(output)
    if ahead is None or not ahead.is_file():
        return False
    os.replace(ahead, output)
    ahead.parent.rmdir()
    return True
