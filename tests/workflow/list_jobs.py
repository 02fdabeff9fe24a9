"""Run snakemake with the given arguments and append each job it names, `rule wildcard ...`, to the file $JOBS."""

import logging
import os
import sys
from pathlib import Path

from snakemake.cli import main
from snakemake_interface_logger_plugins.common import LogEvent


def note_job(record: logging.LogRecord) -> bool:
    """Append the job of a JOB_INFO event; let every record pass."""
    if getattr(record, "event", None) == LogEvent.JOB_INFO:
        with Path(os.environ["JOBS"]).open("a") as file:
            print(record.rule_name, *dict(record.wildcards or {}).values(), file=file)
    return True


# As a filter: snakemake removes all handlers but its own.
logging.getLogger("snakemake.logging").addFilter(note_job)
main(sys.argv[1:])
