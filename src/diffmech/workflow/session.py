"""What surrounds one job: its log, its threads, its settings, and one clear line when the user can mend the cause."""

import contextlib
import gc
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO, TypeVar

from diffmech.artifacts import versions
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.section import Section
from diffmech.errors import DiffmechError
from diffmech.workflow.memory import reuse_freed_memory

MOST_TOLD = 1 << 16  # characters of a parameter that is kept
SectionType = TypeVar("SectionType", bound=Section)


@dataclass(frozen=True)
class Job:
    """The paths and settings of one job, as its rule declares them; `config` is the whole study, of which none is
    tracked."""

    input: Any
    output: Any
    wildcards: Any
    params: Any
    root: Path
    runtime: RuntimeConfig
    config: Any = None

    @property
    def groups(self) -> dict[str, str]:
        """The tables of groups of images, by domain; empty where no data set of the rule has groups."""
        return dict(zip(self.params.grouped, map(str, self.input.groups), strict=True))

    def placed(self, path: str) -> str:
        """Return where a path below `results/` is, also where another workflow gave this one a prefix."""
        return str(self.output[0]).partition("results/")[0] + path if path.startswith("results/") else path

    def section(self, kind: type[SectionType], name: str) -> SectionType:
        """Return the section that the rule tracks under `settings[name]`."""
        return kind.restore(self.params.settings[name])


class _Tee:
    """Write to the log and to the terminal."""

    def __init__(self, *targets: TextIO) -> None:
        self.targets = targets

    def write(self, text: str) -> int:
        for target in self.targets:
            target.write(text)
        return len(text)

    def flush(self) -> None:
        for target in self.targets:
            target.flush()

    def isatty(self) -> bool:
        return self.targets[-1].isatty()


class _BesideBars(logging.Handler):
    """Write warnings on lines of their own, above a progress bar that is on its way."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def told_beside(log: Path | str) -> Path:
    """Return the file beside the log of a job that tells what it was told and with which versions it ran."""
    return Path(log).with_suffix(".json")


def _tell(snakemake: Any, log: Path) -> None:
    """Write that file, for `diffmech.provenance`: Snakemake records no names of parameters, and tables no versions."""
    reprs = {name: repr(value) for name, value in snakemake.params.items()}
    params = {name: value for name, value in snakemake.params.items() if len(reprs[name]) < MOST_TOLD}
    content = {"params": params, "recorded": sorted(reprs.values()), "versions": versions()}
    told_beside(log).write_text(json.dumps(content, sort_keys=True, default=repr) + "\n", encoding="utf-8")


@contextlib.contextmanager
def session(snakemake: Any) -> Iterator[Job]:
    """Run the body of a rule script: log to the rule's log file, limit threads, turn known errors into one line."""
    runtime = RuntimeConfig.restore(snakemake.config.get("runtime") or {})
    reuse_freed_memory()
    # Imports make no garbage; looking for it among all that they make took 0.8 of the 6.4 seconds of a short job.
    gc.set_threshold(20_000)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(max(1, snakemake.threads))
    # Progress must not fill the log of a job that nobody watches; the environment variable is tqdm's own.
    if not runtime.progress or not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    log = Path(snakemake.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as file, contextlib.redirect_stderr(_Tee(file, sys.stderr)):
        # of several chunks that cannot be read one is raised, and asyncio would show the tracebacks of the others
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        logging.basicConfig(
            handlers=[_BesideBars()], level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
        )
        try:
            yield Job(
                input=snakemake.input,
                output=snakemake.output,
                wildcards=snakemake.wildcards,
                params=SimpleNamespace(**dict(snakemake.params.items())),
                root=Path(snakemake.scriptdir).parent,
                runtime=runtime,
                config=snakemake.config,
            )
        except DiffmechError as error:
            print(f"diffmech: {error}", file=sys.stderr)
            sys.exit(1)
        except OSError as error:
            if error.errno != 28:  # ENOSPC
                traceback.print_exc()
                raise
            print(
                f"diffmech: {error.filename or snakemake.output[0]}: the disk is full; free space and rerun",
                file=sys.stderr,
            )
            sys.exit(1)
        except Exception as error:
            from diffmech.batches import out_of_memory

            if out_of_memory(error):
                reason = " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
                print(
                    f"diffmech: memory ran out ({reason}); give less to a pass (runtime.batch_size, now"
                    f" {runtime.batch_size}; in a training its own batch_size), or run fewer jobs at a time",
                    file=sys.stderr,
                )
                sys.exit(1)
            traceback.print_exc(file=file)
            raise
        _tell(snakemake, log)
        print(f"finished in {time.perf_counter() - start:.1f} s", file=file)
