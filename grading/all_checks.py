"""Every check of a submission, in the order in which they run."""

from grading import checks_numpy, checks_torch, checks_training
from grading.scheme import QUESTIONS

ALL_CHECKS = sorted(
    [*checks_numpy.CHECKS, *checks_torch.CHECKS, *checks_training.CHECKS],
    key=lambda check: list(QUESTIONS).index(check.question),
)
