"""Write what students start from, out of the solution itself.

python -m grading.handout handout
python -m grading.handout handout --no_gradients

Bodies of functions become a `NotImplementedError`; signatures, docstrings and all around them stay as they are. The
page of tasks is `handout.md`, with the points of the grader's checks filled in.
"""

import ast
import re
import sys
from pathlib import Path

from grading.all_checks import ALL_CHECKS
from grading.checks_training import CONVNET_STEPS, convnet_interval
from grading.scheme import BY_HAND, BY_HAND_POINTS, FILES, QUESTIONS, ROOT
from grading.session import COURSE_FILES
from report.claims import CLAIMS
from training.flags import Parser, file_path

SCRIPTS = ("train_mlp_numpy.py", "train_mlp_pytorch.py", "train_convnet_pytorch.py")
KEPT = {"make_flags", "check_flags", "main", "make_network"}  # students do not write flags, nor what calls the rest
AS_THEY_ARE = (
    *COURSE_FILES, "requirements.txt", "pyproject.toml", "LICENSE", "training/README.md",
    "tests/gradcheck.py", "tests/gradient_checks.py", "tests/test_gradients.py",
)  # fmt: skip


def blanked(text, is_kept=KEPT.__contains__):
    """Return a module's source with the bodies of its functions and methods replaced, but for those of kept names.

    One that has nothing but a docstring, or raises `NotImplementedError` already, stays as it is.
    """
    lines = text.splitlines(keepends=True)
    for name, function in reversed(_functions(ast.parse(text))):
        has_docstring = ast.get_docstring(function) is not None
        body = function.body[has_docstring:]
        if is_kept(function.name) or not body or ast.unparse(body[0]) == "raise NotImplementedError":
            continue
        indent = " " * body[0].col_offset
        begin, end = function.body[0].end_lineno if has_docstring else body[0].lineno - 1, function.end_lineno
        # Comments before the first statement and after the last one go with them.
        while lines[begin - 1].lstrip().startswith("#"):
            begin -= 1
        while end < len(lines) and lines[end].startswith(f"{indent}#"):
            end += 1
        lines[begin:end] = [f'{indent}raise NotImplementedError("{name} is not written yet")\n']
    return "".join(lines)


def _functions(module):
    """Return name and node of each function of a module and each method of its classes, in the order of the source."""
    found = []
    for node in module.body:
        if isinstance(node, ast.FunctionDef):
            found.append((node.name, node))
        elif isinstance(node, ast.ClassDef):
            found += [(f"{node.name}.{n.name}", n) for n in node.body if isinstance(n, ast.FunctionDef)]
    return found


def without_gradients(text):
    """Return a module's source whose docstrings say what a gradient is of and its shape, but not its formula.

    Those formulas are what questions 1.1 and 3.2 a ask for. A paragraph that cites an equation of one goes; of the
    first paragraph of a docstring, what stands between the equals sign and the shape.
    """
    cites = r"Eq\. \((?![\w-]*forward\)|bn-statistics\))"
    text = re.sub(rf' = [^"\n]*?(?=, (?:of the )?shape)(.*?), {cites}[\w-]+\)', r"\1", text)
    return re.sub(rf'(?m)^\n((?:(?! *"""| *\w+:$).+\n)*?.*{cites}.*\n(?:(?! *""").+\n)*)', "", text)


def tasks():
    """Return the page that states the tasks, with the points of the grader's checks."""
    facts = {"by hand": ", ".join(BY_HAND), "points by hand": BY_HAND_POINTS}
    facts["accuracy"] = CLAIMS["fig01_mlp_numpy"][0].number
    facts["convnet steps"] = CONVNET_STEPS
    facts["convnet accuracy"] = f"{convnet_interval()[0]:.2f}"
    facts["points"] = f"{sum(check.points for check in ALL_CHECKS):g}"
    for question, title in QUESTIONS.items():
        checks = [check for check in ALL_CHECKS if check.question == question]
        facts[f"title {question}"] = title
        facts[f"points {question}"] = f"{sum(check.points for check in checks):g}"
        facts[f"checks {question}"] = "; ".join(f"{check.title} ({check.points:g})" for check in checks)
    page = (ROOT / "grading" / "handout.md").read_text(encoding="utf-8")
    return re.sub(r"\{(.+?)\}", lambda match: str(facts[match[1]]), page)


def handout(gradients=True):
    """Return `{path: text}` of what students start from.

    Args:
        gradients: leave the formulas of gradients in docstrings.
    """
    files = {name: (ROOT / name).read_text(encoding="utf-8") for name in (*FILES, *SCRIPTS, *AS_THEY_ARE)}
    for name in (*FILES, *SCRIPTS):
        files[name] = blanked(files[name] if gradients else without_gradients(files[name]))
    return files | {"README.md": tasks()}


def main(argv=None):
    parser = Parser(prog="python -m grading.handout", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=file_path, help="where to; a new folder, or an empty one")
    help = "leave the formulas of gradients, which are derived by hand, out of docstrings"
    parser.add_argument("--no_gradients", action="store_true", help=help)
    args = parser.parse_args(argv)
    folder = Path(args.folder)
    try:
        if folder.exists() and any(folder.iterdir()):
            parser.error(f"{folder} is not empty; name a new folder")
        for name, text in handout(not args.no_gradients).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        parser.error(f"{folder} cannot be written ({error.strerror}); name another folder")
    print(f"{folder}: what students start from; {folder / 'README.md'} states their tasks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
