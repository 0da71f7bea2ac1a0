"""Property of the grader: two mistakes in different classes cost what each of them costs, whatever they are.

python -m tests.mistake_pairs          # all pairs; -n 200 draws as many

No submission is run: the grader's own classes, with the mistakes put in, answer in this process.
"""

import argparse
import contextlib
import functools
import itertools
import random
import warnings

import numpy as np

from grading.all_checks import ALL_CHECKS
from grading.check import MISTAKES, Grading
from grading.checks_training import Training
from grading.mistakes import Mistake
from grading.reference import Classes, Reference
from grading.scheme import FILES
from grading.submission import Submission
from tests.graded import answer_here

TIMELESS = [check for check in ALL_CHECKS if not check.name.endswith((".training", ".speed"))]
KNOWN = [mistake for mistake in MISTAKES if not mistake.is_harmless]  # conventions may be right together


def _raises(*args, **kwargs):
    raise RuntimeError("broken on purpose")


def _missing(base):
    raise NotImplementedError(f"there is no {base.__name__}")


@functools.cache  # one of each, by which what is answered with it is remembered
def broken(target):
    """Return the ways in which a class can be broken altogether, as mistakes."""
    methods = ["apply"] if target.endswith("Function") else ["__init__", "forward"]
    methods += ["backward"] * target.startswith(("modules", "mlp_numpy"))
    ways = {name: lambda base, name=name: type(base.__name__, (base,), {name: _raises}) for name in methods}
    return [Mistake("", target, way, f) for way, f in (ways | {"missing": _missing}).items()]


class Answers(Classes):
    """A session in this process: the grader's classes with mistakes, in place of a submission's.

    Args:
        known: a dict, which keeps what has been answered: an answer depends on the mistakes that it goes through.
    """

    protection, old_names = {}, set()

    def __init__(self, reference, mistakes, known):
        super().__init__(mistakes, np.float64)
        self.reference, self.known = reference, known

    def import_module(self, name):
        pass

    def ask(self, op, params, arrays=None, seconds=None):
        arrays = arrays or {}
        right = {name: value for name, value in params.items() if name != "stand_ins"}
        through = self.reference.through(op, right, arrays) if op != "import_module" else ()
        mistakes = tuple(m for m in self.mistakes if m.target in through)
        key = op, repr(sorted(params.items())), id(arrays) if arrays else 0, mistakes
        if key not in self.known:
            self.known[key] = answer_here(self, op, params, arrays), arrays
        return self.known[key][0]


class Pairs:
    """Grades submissions with given mistakes by `checks`."""

    def __init__(self, checks=TIMELESS):
        self.checks, self.reference, self.known, self.lost_by = checks, Reference(), {}, {}

    def lost(self, *mistakes):
        """Return the names of the checks that a submission with these mistakes loses."""
        files = {f"{m.target.split('.')[0]}.py" for m in mistakes}  # those without a mistake lose nothing
        if mistakes not in self.lost_by:
            submission = Submission(None, {name: name for name in FILES})
            grading = Grading(Answers(self.reference, mistakes, self.known), self.reference, submission, Training(None))
            grading.import_all()
            self.lost_by[mistakes] = {
                check.name for check in self.checks if files & set(check.files) and not grading.run(check).passed
            }
        return self.lost_by[mistakes]

    def differ(self, a, b):
        """Return what is wrong with the price of two mistakes, as a sentence; None where it is their prices' sum."""
        expected, got = self.lost(a) | self.lost(b), self.lost(a, b)
        if got == expected:
            return None
        more, less = sorted(got - expected), sorted(expected - got)
        return f"lost as well: {more}, gained: {less}; {a.check} {a.sentence!r} and {b.check} {b.sentence!r}"

    def raised(self, a, wrong):
        """Return which checks a mistake loses no more, once another class is broken altogether; None where none."""
        gained = self.lost(a) - self.lost(a, wrong)
        if not gained:
            return None
        return f"gained: {sorted(gained)}; {a.check} {a.sentence!r} with {wrong.target} {wrong.sentence} broken"


def all_pairs():
    return [(a, b) for a, b in itertools.combinations(KNOWN, 2) if a.target != b.target]


def all_broken():
    targets = sorted({m.target for m in KNOWN})
    return [(a, wrong) for a in KNOWN for target in targets if target != a.target for wrong in broken(target)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-n", type=int, help="how many of each to draw (default: all)")
    n = parser.parse_args().n
    pairs, n_wrong = Pairs(), 0
    warnings.simplefilter("ignore")
    for title, find, every in (
        ("pairs", pairs.differ, all_pairs()),
        ("pairs with a broken class", pairs.raised, all_broken()),
    ):
        tried = random.Random(0).sample(every, min(n or len(every), len(every)))
        wrong = [text for pair in tried if (text := find(*pair))]
        print(*wrong, sep="\n", end="\n" * bool(wrong))
        print(f"{len(tried)} {title} of {len(every)} tried, {len(wrong)} wrong")
        n_wrong += len(wrong)
    return n_wrong > 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        raise SystemExit(main())
