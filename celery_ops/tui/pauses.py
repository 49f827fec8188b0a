"""Keeps the pauses of the garbage collector short enough not to be felt at the keys.

A snapshot of 1,000 workers and 10,000 queues has no cycle in it: all of it goes when the next one
comes. A full collection visits it all the same, several at once, and takes up to 0.3 s; by default
one comes every few snapshots.
"""

from __future__ import annotations

import gc

THRESHOLDS = (10_000, 4, 1_000)
"""Net allocations, collections of the young, collections of the middle until the next stage."""


def make_full_collections_rare() -> None:
    """For the rest of this process. What is alive now (code, styles) is not visited any more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
