"""The recorded runs of `report/results`, and what one more run of the same may be expected to give."""

import functools
import math

import numpy as np

from report import records

# Two-sided 99% quantiles of Student's t for 1, 2, … degrees of freedom.
# fmt: off
T_99 = (63.66, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012, 2.977, 2.947,
        2.921, 2.898, 2.878, 2.861, 2.845, 2.831, 2.819, 2.807, 2.797, 2.787, 2.779, 2.771, 2.763, 2.756, 2.750)
# fmt: on
MIN_RUNS = 3  # of fewer, the quantile of t says next to nothing


@functools.cache
def read_runs(experiment):
    """Return the `records.Record`s of an experiment that did not diverge, in the order of their seeds."""
    return tuple(record for record in records.read_records(experiment) if record.summary is not None)


def interval(values, late=()):
    """Return where one more value is expected with 99% probability: lowest, highest, and how that was found.

    Of three values or more, mean ± t · s · √(1 + 1/n), Student's interval for a new observation; it takes the
    values for normally distributed. Of fewer, the spread over each run's late evaluations stands in for
    the spread over seeds: mean ± 3 of their standard deviations.

    Args:
        values: one a run, at least one.
        late: for each run the same quantity at its last evaluations, wanted where there are fewer than three.
    """
    values = np.asarray(values, float)
    n, mean = len(values), float(np.mean(values))
    if n >= MIN_RUNS:
        s = float(values.std(ddof=1))
        t = T_99[n - 2] if n - 2 < len(T_99) else 2.66
        half = t * s * math.sqrt(1 + 1 / n)
        text = f"{n} recorded runs, {mean:.4g} ± {s:.2g}; Student's t at 99% for one more"
    else:
        half = 3 * float(np.mean([np.std(v, ddof=1) for v in late])) if len(late) else 0.0
        text = f"{n} recorded run{'s' if n > 1 else ''}, {mean:.4g}; 3 standard deviations of its last evaluations"
    return mean - half, mean + half, text
