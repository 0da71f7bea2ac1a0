"""Every check of a submission, with its points: the same for a student's own run of pytest and for grading."""

from grading.checks import batchnorm, convnet, layers, mlp_numpy, mlp_pytorch, training
from grading.scheme import QUESTIONS

PARTS = (layers, mlp_numpy, mlp_pytorch, batchnorm, convnet, training)
ALL_CHECKS = sorted(
    (check for part in PARTS for check in part.CHECKS), key=lambda check: list(QUESTIONS).index(check.question)
)
