"""Mistakes that are known: put into the reference, each says what a submission that made it hands back.

A mistake that a check finds is named in its sentence, and carried forward: later checks of the same class expect
what a right program makes of the wrong part, so that one mistake costs one check. Only arrays that a known mistake
gives, to the last digits, are accepted so. Where a class goes through others that failed, with known mistakes or
unknown ones, stand-ins take their places, in the submission and here.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from grading.child.stand_ins import STAND_INS


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes:
        check: name of the check that finds it.
        target: the class that it changes, as `modules.LinearModule`.
        sentence: what a student is told.
        put_into: takes the class and returns it with the mistake.
        is_harmless: a convention that is as right as the project's, and costs nothing by itself.
        is_carried: whether later checks take it into account. Not so where it hands back zeros or nothing: a
            network that then stands still is no proof of anything.
    """

    check: str
    target: str
    sentence: str
    put_into: Callable
    is_harmless: bool = False
    is_carried: bool = True


def make(check, target, *rows, harmless=False, carried=True):
    """Return the `Mistake` of each row, a sentence and what puts it into the class."""
    return [Mistake(check, target, *row, harmless, carried) for row in rows]


def changed(forward=None, backward=None):
    """Return what makes a subclass of a class, given functions of (right method, self, arguments)."""

    def put_into(base):
        methods = {}
        if forward:
            methods["forward"] = lambda self, *args: forward(lambda *a: base.forward(self, *a), self, *args)
        if backward:
            methods["backward"] = lambda self, *args: backward(lambda *a: base.backward(self, *a), self, *args)
        return type(base.__name__, (base,), methods)

    return put_into


def built(change):
    """Return what makes a subclass of a class: `change(self)` alters what it has made."""

    def put_into(base):
        class Wrong(base):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                change(self)

        return Wrong

    return put_into


def with_slope(f):
    """Return a change of either MLP: it hands `f(neg_slope)` on to its activations."""

    def put_into(base):
        class Wrong(base):
            def __init__(self, n_inputs, n_hidden, n_classes, neg_slope, **kwargs):
                super().__init__(n_inputs, n_hidden, n_classes, f(neg_slope), **kwargs)

        return Wrong

    return put_into


# What is written into the activations of either MLP in place of neg_slope, besides PyTorch's own slope and 0.
WRITTEN_SLOPES = [
    (f"the MLP does not hand neg_slope on to its activations ({slope} acts)", with_slope(lambda a, slope=slope: slope))
    for slope in (0.02, 0.05, 0.1, 0.2, 0.3)
]


@functools.cache  # one of each, by which what is computed for it is remembered
def stand_in(target):
    """Return a class's stand-in as the `Mistake` that it is."""
    return Mistake("", target, "", lambda base: type(base.__name__, (STAND_INS[target], base), {}))
