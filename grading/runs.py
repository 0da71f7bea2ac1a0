"""The recorded runs of `report/results`, and what one more run of the same may be expected to give."""

import functools
import statistics

from report import records
from report.claims import prediction_interval


@functools.cache
def read_runs(experiment):
    """Return the `records.Record`s of an experiment that did not diverge, in the order of their seeds."""
    return tuple(records.whole_runs(experiment))


def interval(values, confidence=0.99):
    """Return where one more value is expected: lowest, highest, and how that was found.

    99% where points depend on it, so that of a hundred right answers one at most is turned down by bad luck.

    Args:
        values: one a run, at least one.
        confidence: 0.95 or 0.99.
    """
    low, high = prediction_interval(values, confidence)
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    text = f"{len(values)} recorded runs, {statistics.mean(values):.4g}{spread}; Student's t at {confidence:.0%}"
    return low, high, f"{text} for one more"
