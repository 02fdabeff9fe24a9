"""What Snakemake takes to plan a large study, and what of it is Snakemake's own.

Two dry runs: of the captures of a study, and of a Snakefile without this library that has as many jobs, with as many
inputs, outputs, parameters and resources each. Core-seconds and the largest memory of each call; nothing is run.

Run: python benchmarks/dry_run.py --shards 500 --blocks 20        (20,000 captures, and as many latents)
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

ROOT = Path(__file__).parents[1]
SAMPLES = 8  # of a shard
BARE = """
DATASETS, BLOCKS = ["a", "b"], [f"t{{n:04d}}" for n in range({blocks})]
SHARDS = [f"s{{n:08d}}" for n in range({shards})]
SETTINGS = {{"capture": dict.fromkeys(["shard_size", "keep_maps", "keep_factors", "maps_of", "factors_of"], 1)}}

rule all:
    input: expand("results/attention/{{dataset}}/{{block}}/{{shard}}.zip", dataset=DATASETS, block=BLOCKS, shard=SHARDS)

rule model:
    output: "results/model.json"
    shell: "touch {{output}}"

checkpoint dataset:
    output: "results/datasets/{{dataset}}.zip", "results/datasets/{{dataset}}.sha256"
    shell: "touch {{output}}"

def settled(wildcards):
    checkpoints.dataset.get(dataset=wildcards.dataset)
    return []

rule latents:
    input:
        dataset=lambda wildcards: ancient(f"results/datasets/{{wildcards.dataset}}.zip"),
        digests=lambda wildcards: f"results/datasets/{{wildcards.dataset}}.sha256",
        model="results/model.json",
        settled=settled,
    output: "results/latents/{{dataset}}/{{block}}/{{shard}}.zip"
    log: "results/logs/latents/{{dataset}}/{{block}}/{{shard}}.log"
    benchmark: "results/benchmarks/latents/{{dataset}}/{{block}}/{{shard}}.tsv"
    priority: 1
    resources: mem_mb=2000
    params:
        settings=SETTINGS,
        timesteps=lambda wildcards: [1],
        sample_ids=lambda wildcards: list(range({samples})),
        domain=lambda wildcards: wildcards.dataset,
        code="0123456789abcdef",
    shell: "touch {{output}}"

rule capture:
    input:
        latents="results/latents/{{dataset}}/{{block}}/{{shard}}.zip",
        model="results/model.json",
        settled=settled,
    output: "results/attention/{{dataset}}/{{block}}/{{shard}}.zip"
    log: "results/logs/attention/{{dataset}}/{{block}}/{{shard}}.log"
    benchmark: "results/benchmarks/attention/{{dataset}}/{{block}}/{{shard}}.tsv"
    resources: gpu=0, mem_mb=4000
    params: settings=SETTINGS, code="0123456789abcdef"
    shell: "touch {{output}}"
"""


def study(shards: int, blocks: int) -> dict[str, object]:
    """Return a study of two data sets of drawn faces with so many shards and blocks."""
    faces = {"kind": "synthetic_faces", "count": SAMPLES * shards}
    capture = {"samples": SAMPLES * shards, "shard_size": SAMPLES, "block_span": 40}
    return {
        "study": {"domains": {"real": "a", "synthetic": "b"}},
        "datasets": {"a": {**faces, "first": 2000}, "b": {**faces, "first": 2000 + SAMPLES * shards}},
        "capture": {**capture, "timesteps": [40 * block for block in range(blocks)]},
        "ablation": {"timesteps": [0]},
    }


def measure(name: str, folder: Path, *arguments: str) -> None:
    """Print what one dry run takes; CalledProcessError with what it says where it fails."""
    log = folder / "log"
    command = [sys.executable, "-m", "snakemake", *arguments, "--dry-run", "--quiet", "all"]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=log.read_text()[-2000:])
    print(f"{name:12s}{used.ru_utime + used.ru_stime:8.1f} core-seconds{used.ru_maxrss / 1024:8.0f} MB", flush=True)


def main() -> None:
    """Print one line for each of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shards", type=int, default=50, help="of each of two data sets")
    parser.add_argument("--blocks", type=int, default=20, help="of timesteps, 25 at most")
    parser.add_argument("--only", choices=("bare", "study"))
    options = parser.parse_args()
    print(f"{2 * options.shards * options.blocks} captures and as many latents")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "bare.smk").write_text(BARE.format(**vars(options), samples=SAMPLES))
        (folder / "study.yaml").write_text(yaml.safe_dump(study(options.shards, options.blocks)))
        if options.only != "study":
            measure("bare", folder, "--snakefile", "bare.smk")
        if options.only != "bare":
            snakefile = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "study.yaml"]
            measure("this study", folder, "attention", *snakefile)


if __name__ == "__main__":
    main()
