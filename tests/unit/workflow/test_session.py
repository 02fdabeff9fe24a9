"""What surrounds a job: its log reads well, and what the user can mend is one line. In processes of their own, since a
session sets up its process."""

import subprocess
import sys
from pathlib import Path
from textwrap import indent

SCRIPT = """
import logging, sys
from types import SimpleNamespace
from diffmech.artifacts import progress
from diffmech.errors import DataError
from diffmech.workflow.session import session

rule = SimpleNamespace(
    config={}, threads=1, log=["logs/job.log"], input=[], output=["out"], wildcards={}, params={}, scriptdir="scripts"
)
with session(rule):
"""


def run(folder: Path, body: str) -> tuple[int, str, str]:
    """Return the exit code, the log and what was written to the terminal, carriage returns as line ends."""
    job = subprocess.run(
        [sys.executable, "-c", SCRIPT + indent(body, "    ")], cwd=folder, capture_output=True, text=True, check=False
    )
    log = (folder / "logs/job.log").read_text()
    return job.returncode, log.replace("\r", "\n"), job.stderr.replace("\r", "\n")


def test_a_warning_gets_a_line_of_its_own_beside_a_progress_bar(tmp_path):
    body = "for step in progress(range(2), 'passes'):\n    logging.getLogger('job').warning('step %d', step)\n"
    code, *texts = run(tmp_path, body)
    assert code == 0
    for text in texts:
        assert [line for line in text.splitlines() if "WARN" in line] == ["WARNING job: step 0", "WARNING job: step 1"]
        assert "passes: 100%" in text
    assert texts[0].splitlines()[-1].startswith("finished in")


def test_what_the_user_can_mend_is_one_line_in_the_log_and_on_the_terminal(tmp_path):
    line = "diffmech: a.png: is truncated; replace it\n"
    assert run(tmp_path, "raise DataError('a.png: is truncated; replace it')\n") == (1, line, line)


def test_a_full_disk_is_one_line(tmp_path):
    code, log, _ = run(tmp_path, "raise OSError(28, 'No space left on device', 'results/x.zarr.zip')\n")
    assert (code, log) == (1, "diffmech: results/x.zarr.zip: the disk is full; free space and rerun\n")


def test_memory_that_runs_out_is_one_line(tmp_path):
    code, log, _ = run(tmp_path, "raise MemoryError('Unable to allocate 9. GiB for an array.')\n")
    assert code == 1
    assert log.startswith("diffmech: memory ran out (Unable to allocate 9. GiB for an array); give less to a pass")
    assert "(runtime.batch_size, now 64;" in log
    assert log.count("\n") == 1


def test_a_defect_keeps_its_traceback_in_the_log(tmp_path):
    code, log, _ = run(tmp_path, "raise ZeroDivisionError('ours')\n")
    assert code == 1
    assert "Traceback" in log
    assert log.endswith("ZeroDivisionError: ours\n")
