"""The paper on one card: the study of arXiv 2506.17237 at its scale, by the workflow's own rules, within minutes.

Run: python -m benchmarks.paper --faces FOLDER --out OUT --minutes 6.5 [--small]. FOLDER holds 2,000 photographs of
faces or more; as many faces are drawn. The denoiser is trained for as long as the other steps leave time (`--after`),
on this machine's pace. OUT gets, every twenty seconds, the tables so far; at the end, or when time is over, the seconds
of each rule, excerpts for the page, and the weights: a few files of at most 16 MiB. The page is made from these, on any
machine: python -m benchmarks.paper.report --from OUT. docs/benchmarks.md says what was measured.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from benchmarks.paper.packing import WEIGHTS, pack_excerpts, pack_tables, pack_weights
from benchmarks.paper.timeline import timeline

from diffmech.config.load import merge, read_config
from diffmech.config.root import Config
from diffmech.heads.paths import Heads
from diffmech.heads.tables import reported
from diffmech.interventions.tables import ATTRIBUTION
from diffmech.judging.tables import RECOGNITION
from diffmech.mechanisms.tables import MECHANISMS
from diffmech.workflow.study import Study

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
LOG = "snakemake.log"
PACK_EVERY = 20  # seconds
TRAINING_STARTS = 20  # seconds until the first step of a training, and from its last to the next job
LAST = 12  # seconds that packing takes at the end


def main() -> None:
    """Run the study within the given minutes, and pack what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--faces", type=Path, required=True, help="folder of photographs of faces")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is kept")
    parser.add_argument("--minutes", type=float, default=6.5, help="of all; 6.5")
    parser.add_argument("--after", type=float, default=180, help="seconds kept for what follows the training; 180")
    parser.add_argument("--work", type=Path, help="folder for the whole study, gigabytes; a temporary one")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="all")
    parser.add_argument("--side-by-side", type=int, default=12, help="jobs at a time on the card; 12")
    parser.add_argument("--small", action="store_true", help="16 x 16 pixels on the CPU, to try the chain")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what runs is ended, too
    start = time.time()
    deadline = start + 60 * options.minutes - LAST
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = (options.work or Path(folder)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        study = settings(options.faces, small=options.small)
        config = write_study(work, study)
        stores = [f"results/datasets/{dataset}.zarr.zip" for dataset in config.study.domains.values()]
        with snakemake(work, stores, options) as preparing:
            pace = seconds_per_step(work, 2 if options.small else 8)
            if not follow(preparing, deadline):
                sys.exit(log_tail(work))
        left = deadline - time.time() - options.after - TRAINING_STARTS
        steps = max(1, min(config.model.training.steps, int(left / pace)))
        print(f"{time.time() - start:.0f} s: {1000 * pace:.1f} ms a step, so {steps} steps", flush=True)
        config = write_study(work, merge(study, {"models": {"paper": {"training": {"steps": steps}}}}))
        with snakemake(work, targets(config), options) as process:
            done = follow(process, deadline, lambda: pack_early(work, options.out, config))
        print(f"{time.time() - start:.0f} s: {'all tables are there' if done else log_tail(work)}", flush=True)
        times = timeline(work, start)
        times.to_csv(options.out / "seconds.csv", index=False)
        pack_tables(work, options.out)
        pack_weights(work, options.out, config)
        pack_excerpts(work, options.out, config)
    print(times.to_string(index=False))
    print(f"{time.time() - start:.0f} s in all")
    sys.exit(0 if done else 1)


def settings(faces: Path, *, small: bool = False) -> dict[str, Any]:
    """Return the study as it is laid over config.yaml, with the folder of photographs `faces`."""
    found = yaml.safe_load((HERE / "study.yaml").read_text(encoding="utf-8"))
    if small:
        found = merge(found, yaml.safe_load((HERE / "small.yaml").read_text(encoding="utf-8")))
    return merge(found, {"datasets": {"photographs": {"path": str(faces.resolve())}}})


def write_study(work: Path, study: dict[str, Any]) -> Config:
    """Write the study to `work` and return it validated, over config.yaml."""
    (work / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return read_config(ROOT / "config.yaml", work / "study.yaml")


def targets(config: Config) -> list[str]:
    """Return what the page is made from, whether generated images show what was asked for, and effects by gradients."""
    study = Study(config.model_dump(mode="json"), ROOT)
    heads, model = Heads(study), config.study.model
    stores = [f"results/models/{model}/gallery.zarr.zip", f"results/resampling/{model}/examples.zarr.zip"]
    tables = [table.at(model=model) for table in (*reported().values(), RECOGNITION, ATTRIBUTION)]
    return [*tables, *stores, *heads.circuits(), *heads.all_attention(), "results/datasets/comparison.json"]


@contextlib.contextmanager
def snakemake(work: Path, wanted: list[str], options: argparse.Namespace) -> Iterator[subprocess.Popen[bytes]]:
    """Run Snakemake on the study in `work`, with its output in snakemake.log; what still runs at the end is ended."""
    command = snakemake_command(work, wanted, cores=options.cores, side_by_side=options.side_by_side)
    with (work / LOG).open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with all jobs: it is the head of a group
            process.wait()


def snakemake_command(work: Path, wanted: list[str], *, cores: int, side_by_side: int) -> list[str]:
    """Return the call that makes the files `wanted` of the study in `work`, with so many jobs on the card at a time.

    The card has room for many jobs, most of whose time goes into starting. What all else waits for comes first: the
    heads' features, which several threads describe, and the mechanisms made of them. The greedy scheduler needs no
    further package.
    """
    mechanisms = MECHANISMS.at(model=read_config(ROOT / "config.yaml", work / "study.yaml").study.model)
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(work)),
        *("--configfile", str(work / "study.yaml"), "--cores", str(cores), "--scheduler", "greedy"),
        *("--resources", f"gpu={side_by_side}", "--set-threads", f"head_features={min(10, cores)}"),
        *(["--prioritize", mechanisms] if mechanisms in wanted else []),
        *("--keep-going", "--", *wanted),
    ]


def seconds_per_step(work: Path, seconds: float) -> float:
    """Return how long a step of the training takes here, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.paper.pace", str(work / "study.yaml"), str(seconds)]
    return float(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


def follow(process: subprocess.Popen[bytes], deadline: float, meanwhile: Callable[[], None] = lambda: None) -> bool:
    """Do `meanwhile` every few seconds while `process` runs; return whether it ended well before `deadline`."""
    while (left := deadline - time.time()) > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(min(PACK_EVERY, left)) == 0
        meanwhile()
    return False


def pack_early(work: Path, out: Path, config: Config) -> None:
    """Pack the tables so far, and the weights as soon as they are there: a run may be cut off."""
    pack_tables(work, out)
    packed = max((part.stat().st_mtime for part in out.glob(f"{WEIGHTS}.*")), default=0.0)
    pointer = work / f"results/models/{config.study.model}/model.json"
    if pointer.is_file() and pointer.stat().st_mtime > packed:
        pack_weights(work, out, config)


def log_tail(work: Path) -> str:
    """Return that the study was not finished, and what Snakemake said last."""
    return "stopped early; Snakemake said last:\n" + (work / LOG).read_text(encoding="utf-8")[-4000:]


if __name__ == "__main__":
    main()
