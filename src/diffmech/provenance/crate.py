"""Packing a study for others: its pages and tables with where each comes from, as an RO-Crate 1.1. Ours.

RO-Crate 1.1 (Sefton et al. 2021, https://w3id.org/ro/crate/1.1) is a folder, here a zip archive, described by JSON-LD.
Beside the results lie the settings, the versions of all packages of the environment, the commit of the code where it is
a clone, and the chain of jobs behind every file. `diffmech.verify` compares all of it with the list of SHA-256 that is
packed last. Equal results of one environment give equal bytes: no time is in it but those of the jobs.
"""

import hashlib
import json
import platform
import shutil
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml

from diffmech.artifacts import archive_entry, atomic_path
from diffmech.errors import StoreError
from diffmech.provenance.chain import Job, Record, jobs_behind, records_behind, sha256
from diffmech.verify import ALWAYS, MANIFEST, METADATA, RATIO, SPECIFICATION, escapes

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
PACKAGE = "study.crate.zip"  # beside the front page
STORES = (".zarr.zip", ".safetensors", ".pt")
FORMATS = {
    ".html": "text/html",
    ".csv": "text/csv",
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".svg": "image/svg+xml",
    ".zip": "application/zip",
    ".txt": "text/plain",
}


@dataclass(frozen=True)
class Study:
    """What is packed with every file: the title and settings of the study, the folder of its code, a licence."""

    title: str
    settings: Mapping[str, Any]
    root: Path
    license: str = ""


POINTER = "model.json"


def all_records(paths: Iterable[str], read: Callable[[str], Any]) -> dict[str, dict[str, Any]]:
    """Return Snakemake's records of `paths` and of all that they were made from, as `records_behind` those of one.

    Jobs name a denoiser by its pointer alone: the files that the same job put beside it are of the study as well.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        if path not in found:
            found |= records_behind(path, read)
    for pointer in [path for path in found if Path(path).name == POINTER]:
        beside = (path.as_posix() for path in sorted(Path(pointer).parent.rglob("*")) if path.is_file())
        for path in beside:
            record = read(path)
            if path not in found and record and record.get("rule") == found[pointer]["rule"]:
                found |= records_behind(path, read)
    return found


def pack(
    output: Path | str,
    packed: Sequence[str],
    records: Mapping[str, Record],
    study: Study,
    *,
    stores: bool = False,
) -> str:
    """Write the files `packed`, the tables behind them, with `stores` also all stores and weights, and what tells of
    them; return in a line what was written.

    Raises StoreError for a file that is gone, or whose name leads out of the working folder.
    """
    behind = [path for path in sorted(records) if (stores or not path.endswith(STORES)) and Path(path).is_file()]
    files = list(dict.fromkeys([*packed, *behind]))
    for path in files:
        if escapes(path):
            raise StoreError(f"{path}: lies outside the working folder and cannot be packed; run the study in it")
        if not Path(path).is_file():
            raise StoreError(f"{path}: is to be packed and is gone; run the study again")
    jobs = jobs_behind(records)
    told = {
        "config.yaml": yaml.safe_dump(dict(study.settings), sort_keys=False, allow_unicode=True),
        "environment.json": _json(environment()),
        "code.json": _json({**commit(study.root), "fingerprints": {job.rule: job.code for job in jobs if job.code}}),
        "provenance.json": _json([_plain(job) for job in jobs]),
    }
    if clash := [name for name in files if name in {*told, METADATA, MANIFEST}]:
        raise StoreError(f"{clash[0]}: has the name of a file that every package has of its own; give it another one")
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in told.items()}
    digests |= {path: sha256(path) for path in files}
    sizes = {name: len(text.encode()) for name, text in told.items()}
    sizes |= {path: Path(path).stat().st_size for path in files}
    told[METADATA] = _json(metadata(study, jobs, digests, sizes))
    digests[METADATA] = hashlib.sha256(told[METADATA].encode()).hexdigest()
    told[MANIFEST] = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    with atomic_path(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted([*files, *told]):
            entry = archive_entry(name)
            entry.external_attr = 0o644 << 16
            stored = name.endswith(STORES) or (name not in told and _looks_like_a_bomb(Path(name)))
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            if name in told:
                archive.writestr(entry, told[name].encode())
            else:
                entry.file_size = sizes[name]  # beyond 2 GiB the head of the entry has to say so
                with Path(name).open("rb") as source, archive.open(entry, "w") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    whole = hashlib.sha256(told[MANIFEST].encode()).hexdigest()
    return f"{output}: {len(digests)} files; python -m diffmech.verify checks them (SHA-256 of their list {whole})"


def metadata(study: Study, jobs: Sequence[Job], digests: Mapping[str, str], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return the JSON-LD of the package, in which every file is described."""
    published = datetime.fromtimestamp(max((job.end for job in jobs), default=0), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    maker = {path: job.rule for job in jobs for path in job.outputs}
    files = [
        {
            "@id": name,
            "@type": "File",
            "name": Path(name).name,
            "description": f"made by the rule {maker[name]}" if name in maker else TOLD_OF.get(name, "a result"),
            "contentSize": str(sizes[name]),
            "encodingFormat": FORMATS.get(Path(name).suffix, "application/octet-stream"),
            "sha256": digest,
        }
        for name, digest in sorted(digests.items())
    ]
    licence = {"@id": study.license or "#licence", "@type": "CreativeWork"}
    licence["name"] = study.license or "not stated"
    licence["description"] = "That of these results" if study.license else "Whoever packed them states no licence."
    software = {"@id": "#diffmech", "@type": "SoftwareApplication", "name": "diffmech"}
    software["version"] = next((job.versions["diffmech"] for job in jobs if "diffmech" in job.versions), "unknown")
    run = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": "The run of the workflow",
        "instrument": {"@id": "#diffmech"},
        "object": {"@id": "config.yaml"},
        "result": [{"@id": name} for name in sorted(digests) if name in maker],
        "endTime": published,
    }
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": study.title,
        "description": "Pages and tables of a study by diffmech, with the settings, versions and jobs behind them.",
        "datePublished": published,
        "license": {"@id": licence["@id"]},
        "hasPart": [{"@id": file["@id"]} for file in files],
        "mentions": {"@id": "#run"},
    }
    descriptor = {
        "@id": METADATA,
        "@type": "CreativeWork",
        "conformsTo": {"@id": SPECIFICATION},
        "about": {"@id": "./"},
    }
    terms = [CONTEXT, {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}]
    return {"@context": terms, "@graph": [descriptor, root, *files, licence, software, run]}


TOLD_OF = {
    "config.yaml": "the settings of the study, with all defaults",
    "environment.json": "the versions of Python and of all packages of the environment",
    "code.json": "the commit of the code, where it is a clone, and the fingerprint of the code of each rule",
    "provenance.json": "the jobs behind all files: rule, settings, versions, inputs with digests, times",
}


def environment() -> dict[str, Any]:
    """Return Python, platform and the versions of all packages that can be imported here."""
    packages = {str(each.metadata["Name"]): each.version for each in distributions() if each.metadata["Name"]}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def commit(root: Path) -> dict[str, Any]:
    """Return the commit of the clone at `root` and whether its files are as committed; None where it is no clone."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():  # of a folder around it
        return {"commit": None, "changed": None}
    return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}


def _plain(job: Job) -> dict[str, Any]:
    return {
        "rule": job.rule,
        "outputs": list(job.outputs),
        "inputs": {path: job.read.get(path) for path in job.inputs},
        "params": dict(job.params) or list(job.recorded),
        "versions": dict(job.versions),
        "startTime": job.start,
        "endTime": job.end,
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _looks_like_a_bomb(path: Path) -> bool:
    """Return whether a file would deflate so well that `diffmech.verify` would not unpack it."""
    size, packer, packed = path.stat().st_size, zlib.compressobj(), 0
    if size <= ALWAYS:
        return False
    with path.open("rb") as source:
        while block := source.read(1 << 20):
            packed += len(packer.compress(block))
    return size > RATIO * (packed + len(packer.flush()))
