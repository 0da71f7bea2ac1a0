"""Grades the project's own files before any submission: who has not all points for them grades nobody fairly."""

from grading.all_checks import ALL_CHECKS
from grading.check import Grading
from grading.checks_training import Training
from grading.scheme import FILES
from grading.session import Session
from grading.submission import Submission
from grading.walls import ROOT, SandboxError


def demand_full_points(sandbox, reference):
    """Grade the right answer, without training, which takes a few seconds.

    Raises:
        SandboxError: it loses a check in this installation.
    """
    files = {name: (ROOT / name).read_bytes() for name in FILES}
    submission = Submission(ROOT, {name: name for name in FILES}, files, ["."])
    with Session(sandbox, files, submission.folders) as session:
        grading = Grading(session, reference, submission, Training(None, "the right answer is not trained"))
        grading.import_all()
        for check in ALL_CHECKS:
            try:
                outcome = grading.run(check)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                why = f"{type(error).__name__}: {error}"
                raise SandboxError(f"the grader stumbles over the right answer in {check.name}: {why}") from error
            if outcome.was_run and not outcome.passed:
                raise SandboxError(
                    f"the right answer itself loses {check.name} here, so nothing was graded: got {outcome.got}, "
                    f"expected {outcome.expected or check.title}"
                )
