"""Every check of a submission, in the order in which they run."""

from grading import (
    checks_batchnorm,
    checks_convnet,
    checks_layers,
    checks_mlp_numpy,
    checks_mlp_pytorch,
    checks_training,
)
from grading.scheme import QUESTIONS

PARTS = (checks_layers, checks_mlp_numpy, checks_mlp_pytorch, checks_batchnorm, checks_convnet, checks_training)
# A question's checks in the order in which they stand in their file: later ones build on those before them.
ALL_CHECKS = sorted(
    (check for part in PARTS for check in part.CHECKS), key=lambda check: list(QUESTIONS).index(check.question)
)
