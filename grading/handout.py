"""Copy the template that students start from, with the data loader, `training/` and the checks.

python -m grading.handout DIR
"""

import shutil
import sys
from pathlib import Path

from grading.scheme import ROOT
from training.flags import Parser, file_path

SUPPORT = (
    "cifar10_utils.py", "requirements.txt", "pyproject.toml", "LICENSE", "training/*.py", "training/README.md",
    "grading/__init__.py", "grading/scheme.py", "grading/checks/*.py", "grading/worker/__init__.py",
    "grading/worker/load.py", "grading/worker/operations*.py", "grading/worker/substitutes.py",
    "tests/test_assignment.py",
)  # fmt: skip


def copy(directory):
    """Copy all files of the handout to `directory`, which may exist."""
    template = ROOT / "handout"
    files = {path: path.relative_to(template) for pattern in ("*.py", "README.md") for path in template.glob(pattern)}
    files |= {path: path.relative_to(ROOT) for pattern in SUPPORT for path in ROOT.glob(pattern)}
    for path, name in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, directory / name)


def main(argv=None):
    parser = Parser(prog="python -m grading.handout", description=__doc__.split("\n")[0])
    parser.add_argument("directory", metavar="DIR", type=file_path, help="new or empty directory")
    directory = Path(parser.parse_args(argv).directory)
    try:
        if directory.exists() and any(directory.iterdir()):
            parser.error(f"argument DIR: {str(directory)!r} is not empty; name a new directory")
        copy(directory)
    except OSError as error:
        parser.error(f"argument DIR: {str(directory)!r} cannot be written ({error.strerror}); name another directory")
    print(f"{directory} has the files for students; {directory / 'README.md'} explains the tasks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
