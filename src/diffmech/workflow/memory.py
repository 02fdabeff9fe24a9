"""Freed memory is used again rather than given back to the system and asked for anew.

A denoising pass frees and allocates the same tens of megabytes for every layer. The C library of Linux gives arrays of
this size back at once, and every page of the next one costs a page fault: a sixth to a fifth of the time of a pass of
the bundled model on a CPU (measured), on virtual machines more. It also gives every thread a heap of its own, and each
would keep what compressing chunks once took there.
"""

import ctypes

# Of mallopt, in malloc.h: from how much free memory at the top of the heap, and from what size of one array on, memory
# is given back; the number of heaps.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
MOST_KEPT, LARGEST_REUSED = 512 * 2**20, 64 * 2**20


def reuse_freed_memory() -> None:
    """Keep up to 512 MB of freed arrays, of at most 64 MB each, for this process; without glibc nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, MOST_KEPT)
        mallopt(MMAP_THRESHOLD, LARGEST_REUSED)
        mallopt(ARENA_MAX, 1)
