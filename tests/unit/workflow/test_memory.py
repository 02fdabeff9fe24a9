"""A job asks the system once for the memory that it uses again and again."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from diffmech.workflow.memory import reuse_freed_memory
if {reuse}:
    reuse_freed_memory()
np.ones(5 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(5 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such thresholds")
def test_arrays_of_a_layer_are_not_asked_for_anew():
    anew, again = (
        int(subprocess.run([sys.executable, "-c", FAULTS.format(reuse=reuse)], capture_output=True, check=True).stdout)
        for reuse in (False, True)
    )
    # ten arrays of 40 MB are 100,000 pages, fewer where pages are huge
    assert again < anew / 5
