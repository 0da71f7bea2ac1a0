"""The checks of the assignment, on the files in this directory: those by which submissions are graded.

    python -m pytest tests/test_assignment.py -k linear

runs those of one part.
"""

from pathlib import Path

import pytest

from grading.checks import ALL_CHECKS
from grading.checks.check import Grading
from grading.checks.local import Local
from grading.scheme import FILES
from grading.worker.load import Loader

ROOT = Path(__file__).resolve().parents[1]
IMPORT_ERRORS = set()
GRADING = Grading(Local(Loader(ROOT)).ask, [name for name in FILES if (ROOT / name).exists()])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # wrong layers overflow
@pytest.mark.parametrize("check", [c for c in ALL_CHECKS if not c.name.endswith(".training")], ids=lambda c: c.name)
def test_assignment(check):
    result = GRADING.run(check)
    if not result.passed:
        if result.called.startswith("import ") and result.problem in IMPORT_ERRORS:
            raise pytest.fail.Exception(f"{check.name}: {result.called}, as above", pytrace=False)
        IMPORT_ERRORS.add(result.problem)
        text = "\n".join(filter(None, (f"{check.name}: {result.status}", result.called, result.problem, result.note)))
        raise pytest.fail.Exception(text, pytrace=False)
