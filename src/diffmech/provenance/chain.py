"""The chain of jobs behind an artifact: as Snakemake recorded them, as their logs tell and as the files are now. Ours.

Nothing is inferred from config.yaml as it is today. Snakemake keeps a record of the job behind each file: its rule, its
inputs with the digests of small ones, its parameters without their names, its times. A file beside the log
of a job has its parameters by name and the versions that it ran with (`diffmech.workflow.session`); where that is gone,
or is of another job, the parameters are shown as recorded and the versions as the artifact itself names them.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffmech.artifacts import file_sha256
from diffmech.errors import StoreError
from diffmech.workflow.fingerprints import fingerprint
from diffmech.workflow.session import told_beside

Record = Mapping[str, Any]
RECORDED = ("rule", "input", "log", "params", "starttime", "endtime", "input_checksums", "incomplete")


@dataclass(frozen=True)
class Job:
    """One job behind an artifact; `outputs` are those of its files that the chain needs.

    `params` has the parameters by name where the log tells them, else `recorded` those without names. `read` has the
    digests of inputs when the job began, as far as Snakemake took them.
    """

    rule: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    start: float
    end: float
    params: Mapping[str, Any] = field(default_factory=dict)
    recorded: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    read: Mapping[str, str] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """The fingerprint of its code, empty where the log does not tell it."""
        return str(self.params.get("code", ""))


def records_behind(target: str, read: Callable[[str], Any]) -> dict[str, dict[str, Any]]:
    """Return the records of `target` and of all that it was made from, by path, in plain values.

    `read` gives Snakemake's record of a file, or None. A file that no job made has no entry.
    """
    found: dict[str, dict[str, Any]] = {}
    waiting, seen = [target], {target}
    while waiting:
        path = waiting.pop()
        record = read(path)
        if record is None or not record.get("rule"):
            continue
        found[path] = {key: record.get(key) for key in RECORDED}
        new = [each for each in record.get("input") or () if each not in seen]
        seen.update(new)
        waiting.extend(new)
    return found


def chain(target: str, records: Mapping[str, Record]) -> list[Job]:
    """Return the jobs behind `target`, first the one that made it, each before those that it needed.

    Raises StoreError where there is no such file, or none that the workflow made and finished.
    """
    if not target:
        raise StoreError(
            "target: no artifact was named; name one, as in snakemake provenance --config target=results/report.html"
        )
    if target not in records:
        if not Path(target).exists():
            raise StoreError(f"{target}: there is no such artifact; name a file as rules do, from the working folder")
        raise StoreError(
            f"{target}: was not made by this workflow: .snakemake has no record of it; name one of its results"
        )
    if not Path(target).exists():
        raise StoreError(f"{target}: was made once and is gone; let the workflow make it anew")
    if records[target].get("incomplete"):
        raise StoreError(f"{target}: its job did not finish; let the workflow make it anew")
    return _ordered(jobs_behind(records), target)


def jobs_behind(records: Mapping[str, Record]) -> list[Job]:
    """Return the jobs that `records` are of, in the order of their beginning."""
    jobs = [_job(outputs, records[outputs[0]]) for outputs in _together(records)]
    return sorted(jobs, key=lambda job: (job.start, job.rule, job.outputs))


def _together(records: Mapping[str, Record]) -> Iterator[tuple[str, ...]]:
    """Yield the files that one job made; the log is its own, the times of its files differ a little."""
    jobs: dict[tuple[Any, ...], list[str]] = {}
    for path, record in records.items():
        key = (record["rule"], tuple(record.get("log") or ()), *(record.get("input") or ()))
        jobs.setdefault(key, []).append(path)
    yield from (tuple(sorted(paths)) for paths in jobs.values())


def _ordered(jobs: Sequence[Job], target: str) -> list[Job]:
    """Return the jobs so that each comes before those that it needed, and those near `target` come early."""
    maker = {path: job for job in jobs for path in job.outputs}
    depth: dict[str, int] = {target: 0}
    waiting = [target]
    while waiting:
        path = waiting.pop()
        for each in maker[path].inputs:
            if each in maker and depth.get(each, -1) < depth[path] + 1:
                depth[each] = depth[path] + 1
                waiting.append(each)
    return sorted(jobs, key=lambda job: (max(depth.get(path, 0) for path in job.outputs), job.rule, job.outputs))


def _job(outputs: tuple[str, ...], record: Record) -> Job:
    recorded = tuple(map(str, record.get("params") or ()))
    told = _told(record.get("log") or (), recorded)
    versions = told.get("versions") or next(filter(None, map(versions_of, outputs)), {})
    return Job(
        rule=str(record["rule"]),
        outputs=outputs,
        inputs=tuple(sorted(map(str, record.get("input") or ()))),
        start=float(record.get("starttime") or 0),
        end=float(record.get("endtime") or 0),
        params=told.get("params", {}),
        recorded=() if told else recorded,
        versions=versions,
        read={path: str(digest) for path, digest in (record.get("input_checksums") or {}).items()},
    )


def _told(logs: Iterable[str], recorded: Sequence[str]) -> dict[str, Any]:
    """Return what stands beside the log of a job, nothing where it is of a job that had other parameters."""
    for log in logs:
        try:
            content = json.loads(told_beside(log).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and set(recorded) <= set(content.get("recorded", ())):
            return content
    return {}


def versions_of(path: str) -> dict[str, str]:
    """Return the versions that an artifact says it was made with, empty where it says none."""
    try:
        if path.endswith(".zarr.zip"):
            with zipfile.ZipFile(path) as archive:
                about = json.loads(archive.read("zarr.json"))["attributes"]["provenance"]
        elif path.endswith(".json"):
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            about = content if path.endswith("provenance.json") else content["provenance"]
        else:
            return {}
        about = json.loads(about) if isinstance(about, str) else about
        return {str(name): str(version) for name, version in about["versions"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return {}


def changes(job: Job, root: Path, digests: Mapping[str, str]) -> list[str]:
    """Return what is another now than when the job ran: rule, code, what it read; `digests` are those of now."""
    found = []
    script = root / "workflow_scripts" / f"{job.rule}.py"
    if not script.is_file():
        found.append(f"made by another version: this one has no script of a rule {job.rule}")
    elif job.code and not job.code.startswith(now := fingerprint(script)):
        found.append(f"made by another version: its code was {job.code[:16]} and is {now} now")
    for path, before in job.read.items():
        if digests.get(path, "") and before.startswith("sha256:") and before != f"sha256:{digests[path]}":
            found.append(f"{path} is another file now than the one it read (SHA-256 {before[7:19]}...)")
    return found


def sha256(path: str) -> str:
    """Return the SHA-256 of a file, empty where it is gone."""
    try:
        return file_sha256(path)
    except OSError:
        return ""


def described(target: str, records: Mapping[str, Record], root: Path) -> str:
    """Return the chain behind `target` in words, one paragraph a job; `root` holds the workflow. StoreError as `chain`.

    Digests are taken of the files as they are, each once.
    """
    jobs = chain(target, records)
    paths = {path for job in jobs for path in (*job.outputs, *job.inputs)}
    digests = {path: sha256(path) for path in sorted(paths)}
    odd = [changes(job, root, digests) for job in jobs]
    changed = sum(map(bool, odd))
    noted = f"; {changed} of them tell of a change since, see “!” below" if changed else ""
    lines = [f"{target}: {len(jobs)} jobs stand behind it{noted}"]
    for number, job in enumerate(jobs):
        lines += ["", f"{job.rule}  {_moment(job.start)}, {max(0.0, job.end - job.start):.0f} s"]
        lines += [f"  ! {what}" for what in odd[number]]
        lines += [f"  made  {path}  {_short(digests[path])}" for path in job.outputs]
        lines += [f"  from  {path}  {_short(digests[path])}" for path in job.inputs]
        lines += [f"  {name}: {json.dumps(value, sort_keys=True)}" for name, value in sorted(job.params.items())]
        lines += [f"  parameter: {value}" for value in job.recorded]
        if job.versions:
            lines += ["  versions: " + ", ".join(f"{name} {version}" for name, version in job.versions.items())]
    return "\n".join(lines)


def _short(digest: str) -> str:
    return f"sha256 {digest[:16]}" if digest else "(gone since)"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
