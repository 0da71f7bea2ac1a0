"""Write an autograder that Gradescope takes as it is.

python -m grading.gradescope autograder.zip --no_training
python -m grading.gradescope autograder.zip --no_training --visibility after_due_date

It holds the grader, the scripts in `autograder/`, and their `settings.sh`. They find their places from where they lie:
`setup.sh` in source/, and run_autograder beside source/, submission/ and results/, where the platform copies it.
"""

import sys
import zipfile

from grading.scheme import ROOT, VISIBILITIES
from training.flags import Parser, file_path, integer

# All that the grader is, and what a score depends on.
PARTS = ("*.py", "training/*.py", "requirements.txt", "grading/**/*.py", "grading/*.json", "grading/*.html",
         "report/*.py", "report/*.json", "report/results/*.jsonl")  # fmt: skip
SPARE_SECONDS = 45  # between the grader's end, with what it has, and the platform's


def autograder(visibility="visible", training=True, minutes=10):
    """Return `{path in the archive: text}`, `setup.sh` and `run_autograder` first.

    Args:
        visibility: one of `scheme.VISIBILITIES`.
        training: train networks, too; `setup.sh` then downloads CIFAR-10.
        minutes: the assignment's time-out on the platform.
    """
    flags = f"--visibility {visibility}" + " --no_training" * (not training)
    scripts = ROOT / "grading" / "autograder"
    files = {name: (scripts / name).read_text(encoding="utf-8") for name in ("setup.sh", "run_autograder")}
    files["settings.sh"] = f"flags='{flags}'\nseconds={60 * minutes - SPARE_SECONDS}\n"
    paths = sorted({path for part in PARTS for path in ROOT.glob(part)})
    return files | {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def main(argv=None):
    parser = Parser(prog="python -m grading.gradescope", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("archive", type=file_path, help="where to: a new .zip, to upload as the assignment's autograder")
    when = "when students see what each check says"
    add("--visibility", choices=VISIBILITIES, default="visible", help=when)
    add("--no_training", action="store_true", help="leave the training checks out, and CIFAR-10")
    limit = "the assignment's time-out on the platform"
    add("--minutes", type=integer(3, 40), default=10, help=limit)
    args = parser.parse_args(argv)
    try:
        with zipfile.ZipFile(args.archive, "x", zipfile.ZIP_DEFLATED) as archive:
            for name, text in autograder(args.visibility, not args.no_training, args.minutes).items():
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # the same files give the same archive
                info.external_attr = 0o755 << 16
                archive.writestr(info, text, zipfile.ZIP_DEFLATED)
    except OSError as error:
        parser.error(f"{args.archive} cannot be written ({error.strerror}); name a new file")
    print(f"{args.archive}: upload it as the assignment's autograder, with a time-out of {args.minutes} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
