"""What a check is, what comes of it, and how a submission goes through all of them."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from grading import mistakes_batchnorm, mistakes_convnet, mistakes_layers, mistakes_mlp_numpy, mistakes_mlp_pytorch
from grading.mistakes import stand_in
from grading.reference import Reference, difference
from grading.scheme import FILES

MISTAKES = [
    *mistakes_layers.MISTAKES,
    *mistakes_mlp_numpy.MISTAKES,
    *mistakes_mlp_pytorch.MISTAKES,
    *mistakes_batchnorm.MISTAKES,
    *mistakes_convnet.MISTAKES,
]
# Checks of what later calls of the same class go through, whatever they are given.
ORDINARY = ("forward", "backward", "gradient", "gradients")
IMPORT_SECONDS = 20
OLD_CODE = re.compile(
    r"module 'numpy' has no attribute '\w+'|Missing parentheses in call to 'print'|Legacy autograd function|"
    r"cannot import name '\w+' from 'collections'|`np\.\w+` was removed"
)


@dataclass(frozen=True)
class Check:
    """A named part of a question and its points.

    Attributes:
        name: as in `linear.forward`.
        question: a key of `QUESTIONS`.
        points: what it is worth.
        title: what it asks for, in a few words.
        files: those that it needs.
        run: takes the `Grading`, returns an `Outcome`.
    """

    name: str
    question: str
    points: float
    title: str
    files: tuple
    run: Callable


@dataclass
class Outcome:
    """Whether a check passed; if not, what was called, what came back, what was expected, the likely mistake.

    Attributes:
        was_run: False where there was nothing to run it on.
        is_decided: False where a person has to look: the answer is of another kind than what it is compared with.
        is_written: False where what it asks for is not there yet.
        differs: how what came back differs, in a sentence, for where no mistake is known.
        mistake: the known `Mistake`, or None.
        subject: the class that was asked, as `modules.LinearModule`.
        where: the submission's line where an error came from, or that there is none; empty without an error.
    """

    passed: bool
    called: str = ""
    got: str = ""
    expected: str = ""
    hint: str = ""
    was_run: bool = True
    is_decided: bool = True
    is_written: bool = True
    differs: str = ""
    mistake: object = None
    subject: str = ""
    where: str = ""


@dataclass
class Grading:
    """One submission on its way through the checks.

    Attributes:
        session: its `session.Session`.
        reference: computes what is expected; shared by all submissions.
        submission: its `submission.Submission`.
        training: what the training checks need, `checks_training.Training`.
        check: the `Check` that is running, or that ran last.
        carried: mistakes found so far, which later checks take into account.
        measured: `{operation: [(step, test accuracy), …]}` of the training checks, for the record.
        failed: `{name: outcome}` of the checks that did not pass.
        faulty: classes that failed a check. Where others go through them, stand-ins take their places.
        old_code: what Python said to code that is older than NumPy and PyTorch are here.
        unexplained: names of failed checks, and the classes that failed them, whose mistake is not carried: what goes
            through the same code cannot be compared, and where a check asks for several things, it asks for the others.
    """

    session: object
    reference: Reference
    submission: object
    training: object
    check: Check | None = None
    carried: list = field(default_factory=list)
    old_code: set = field(default_factory=set)
    failed: dict = field(default_factory=dict)
    faulty: set = field(default_factory=set)
    unexplained: set = field(default_factory=set)
    measured: dict = field(default_factory=dict)
    _broken: dict = field(default_factory=dict)
    _answers: dict = field(default_factory=dict)

    def import_all(self):
        """Import each file once; what does not work is not tried again."""
        for name in FILES:
            if name not in self.submission.found:
                self._broken[name] = f"there is no {name}"
                continue
            answer = self.session.ask("import_module", {"module": name[:-3]}, seconds=IMPORT_SECONDS)
            self._note_old_code(answer)
            if answer.error:
                self._broken[name] = f"{name} cannot be imported: {answer.error}"

    def run(self, check):
        """Return the `Outcome` of a check, whatever happens in it."""
        if self.training.data is None and check.name.endswith(".training"):
            return Outcome(False, "training on CIFAR-10", f"not run: {self.training.why_not}", was_run=False)
        broken = [self._broken[name] for name in check.files if name in self._broken]
        if broken:
            return Outcome(False, f"import {check.files[0][:-3]}", broken[0], "a file that can be imported")
        self.check = check
        outcome = check.run(self)
        if not outcome.passed and outcome.is_decided:
            if not outcome.hint:
                outcome.hint = "; ".join(text for text in (outcome.differs, self._follows_from(outcome)) if text)
            self.failed[check.name] = outcome
            if outcome.is_written and outcome.mistake not in self.carried:
                self.unexplained |= {check.name, outcome.subject}
        return outcome

    def _follows_from(self, outcome):
        """Return which failed check of the same class an outcome perhaps follows from, if any.

        An error follows from one that came from the same line; what only went forward does not follow from a gradient.
        """
        goes_back = any(word in outcome.called for word in ("backward", "gradient", "trained"))
        for name, other in self.failed.items():
            part = name.split(".")[1].split("_")[-1]
            is_same = outcome.subject == other.subject != "" and part in ORDINARY
            if is_same and outcome.where in ("", other.where) and (part == "forward" or goes_back):
                return f"perhaps this follows from {name}, above"
        return ""

    def ask(self, op, params, arrays):
        """Return the `Answer` to an operation; the same question is put once."""
        key = (op, repr(sorted(params.items())), id(arrays))
        if key not in self._answers:
            answer = self.session.ask(op, params, arrays)
            self._note_old_code(answer)
            self._answers[key] = answer, arrays  # arrays are kept, so that their id stays theirs
        return self._answers[key][0]

    def compare(self, called, op, params, arrays, names, allowance=None, carried=None):
        """Return the `Outcome` of an operation whose arrays `names` have to be the reference's.

        Where they differ, the known mistakes that the running check finds are tried. Where the class asked goes
        through others that failed, stand-ins take their places. Where that raises an error, or nothing can be compared
        so, it is asked without them, and then with stand-ins for all others.

        Args:
            called: what was called, for a reader.
            allowance: `{name: array}`, see `reference.difference`.
            carried: mistakes to take into account, by default those found so far.
        """
        subject, *through = self.reference.through(op, params, arrays)
        expect = functools.partial(self.reference, op, params, arrays)
        carried = tuple(self.carried if carried is None else carried)
        faulty = tuple(target for target in through if target in self.faulty)
        outcome = None
        for stand_ins in dict.fromkeys([faulty, (), tuple(through)]):
            mistakes = (*map(stand_in, stand_ins), *(m for m in carried if m.target not in stand_ins))
            made = f"{called}, with stand-ins for others that failed" if stand_ins else called
            answer = self.ask(op, params | {"stand_ins": stand_ins} if stand_ins else params, arrays)
            found = self._compare(made, answer, expect, names, allowance, mistakes)
            if found.passed:
                return found
            outcome = outcome if outcome and stand_ins else found
            if answer.kind != "error" and _is_telling(expect(mistakes), arrays, names):
                break
        outcome.subject = subject
        self.faulty.add(subject)
        return outcome

    def _compare(self, called, answer, expect, names, allowance, carried):
        """Return the `Outcome` of an answer; `expect` takes mistakes, and returns what comes back with them."""
        first = None
        for mistakes in dict.fromkeys([(), tuple(m for m in carried if m.is_harmless), carried]):
            found = difference(answer.arrays, expect(mistakes), names, allowance)
            if found is None:
                return Outcome(True)
            first = first or found
        outcome = self.failure(called, answer, first)
        if answer.kind in (None, "error") and answer.arrays:
            mistake = self._diagnose(answer, expect, names, allowance, carried)
            if mistake and mistake.is_harmless:
                return Outcome(True)
            if mistake:
                outcome.hint, outcome.mistake = mistake.sentence, mistake
        return outcome

    def _diagnose(self, answer, expect, names, allowance, carried):
        """Return the known mistake that gives what came back, and carry it; None where none does.

        Of those that give the arrays `names`, one that gives all that came back comes first: the loss alone does not
        tell whether its gradient has the same mistake.
        """
        found = None
        known = [mistake for mistake in MISTAKES if mistake.check == self.check.name]
        for mistake in sorted(known, key=lambda m: not m.is_harmless):
            expected = expect((*carried, mistake))
            differs = functools.partial(difference, answer.arrays, expected, allowance=allowance)
            if not set(names) & set(expected) or differs(names, missing_alike=not mistake.is_harmless):
                continue
            if mistake.is_harmless or not differs({*answer.arrays, *expected}, missing_alike=True):
                found = mistake
                break
            found = found or mistake
        if found:
            self.carry(found)
        return found

    def carry(self, mistake):
        """Have later checks take a mistake into account."""
        if mistake.is_carried and mistake not in self.carried:
            self.carried.append(mistake)

    @staticmethod
    def failure(called, answer, found):
        """Return the `Outcome` of an answer that differs."""
        if answer.error and found.got == "nothing":
            is_written = answer.kind != "error" or answer.detail.get("type") != "NotImplementedError"
            hint = "" if is_written else "this part is not written yet"
            expected = f"{found.name}: {found.expected}"
            where = answer.detail.get("where") or "no line of the submission"
            return Outcome(
                False, called, answer.error, expected, hint, is_written=is_written, differs=found.sentence, where=where
            )
        return Outcome(False, called, f"{found.name}: {found.got}", found.expected, differs=found.sentence)

    def _note_old_code(self, answer):
        """Note what Python says to old code, and leave of the error its first sentence; NumPy's has several."""
        found = OLD_CODE.search(answer.error or "")
        if found:
            self.old_code.add(found.group())
            where = f" ({answer.detail['where']})" if answer.detail.get("where") else ""
            answer.error = answer.error.removesuffix(where).split(". ")[0] + where


def _is_telling(expected, arrays, names):
    """Return whether what is expected tells right from wrong: it is there and finite, not 0, nor what was given."""
    if not all(name in expected and np.isfinite(expected[name]).all() for name in names):
        return False
    return any(expected[name].any() and not np.array_equal(expected[name], arrays.get(name)) for name in names)
