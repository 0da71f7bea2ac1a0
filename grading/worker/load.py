"""Imports a submission's modules, and runs an operation on one of its classes."""

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
import types
import warnings
from pathlib import Path

import numpy as np

from . import operations, substitutes

NOT_WRITTEN = "This part is not written yet"  # for a NotImplementedError without a text


class Loader:
    """The submission's classes, imported as they are asked for, and what an operation leaves for a later one.

    Args:
        root: the directory that was handed in.
        folders: those within it that contain the course's files.

    Attributes:
        kept: what operations leave.
    """

    def __init__(self, root, folders=(".",)):
        self.root, self.folders, self.kept = Path(root).absolute(), list(folders), {}

    def prepare(self):
        """Let Python find the submission's modules; its directory becomes the working directory."""
        sys.path[:0] = [str(self.root / folder) for folder in self.folders]
        sys.path.append(str(self.root))
        for name in {Path(folder).parts[0] for folder in self.folders if folder != "."} & sys.stdlib_module_names:
            # PyTorch has imported the standard library's `code`; `code.modules` is then found in their directory, too.
            module = importlib.import_module(name)
            module.__path__ = [*getattr(module, "__path__", ()), str(self.root / name)]
        sys.dont_write_bytecode = True
        os.chdir(self.root / self.folders[0])

    def __call__(self, target):
        """Return the class `target`, as 'modules.LinearModule'.

        Raises:
            NotImplementedError: the module has no such class; the message names one with a similar name.
        """
        module, name = target.split(".")
        imported = self.import_module(module)
        found = getattr(imported, name, None)
        if found is None or getattr(found, "is_substitute", False):
            near = [n for n, value in vars(imported).items() if isinstance(value, type) and _alike(n, name)]
            found = f"; found {', '.join(near)}" if near else ""
            raise NotImplementedError(f"There is no class {name} in {module}.py{found}")
        return found

    def import_module(self, name):
        """Return a module, as part of a package if it imports from `.`; the classes that it imports are there."""
        if name == "mlp_numpy" and name not in sys.modules:
            self._fill_in("modules")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if "relative import" not in str(error):
                raise
            sys.modules[name] = importlib.import_module(f"{self._package(name)}.{name}")
            return sys.modules[name]

    def _fill_in(self, name):
        """Give a module substitutes for the classes that it lacks, so that a module that imports them can be graded."""
        try:
            module = self.import_module(name)
        except Exception:
            module = sys.modules[name] = types.ModuleType(name)
        for target, substitute in substitutes.SUBSTITUTES.items():
            if target.startswith(f"{name}.") and not hasattr(module, target.split(".")[1]):
                setattr(module, target.split(".")[1], substitute)

    def _package(self, name):
        """Return the name of a package around the file of a module; directories' names need not be identifiers."""
        folder = next(folder for folder in self.folders if Path(self.root, folder, f"{name}.py").exists())
        package, path = "submitted", self.root
        for part in ("", *Path(folder).parts):
            if part:
                package, path = f"{package}.{part.replace('.', '_')}", path / part
            if package not in sys.modules:
                spec = importlib.util.spec_from_file_location(package, path / "__init__.py")
                module = sys.modules[package] = importlib.util.module_from_spec(spec)
                module.__path__ = [str(path)]
                if (path / "__init__.py").exists():
                    spec.loader.exec_module(module)
        return package

    def is_own(self, file):
        """Return whether a source file belongs to the submission."""
        path = Path(file)
        parts = set(path.parts)
        return path.is_relative_to(self.root) and not parts & {"site-packages", "dist-packages", "grading"}


def _alike(name, wanted):
    def letters(text):
        return "".join(filter(str.isalpha, text.lower())).removesuffix("module")

    return letters(name) == letters(wanted)


def run(loader, op, target, params, arrays, out):
    """Run an operation, and fill `out` with arrays as it goes; `arrays` may be written to.

    Returns:
        None, or an error as `{'kind': 'error' or 'missing', 'message': str, 'where': str}`.
    """
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if op == "import":
                loader.import_module(target)
            else:
                _operation(op)(loader, target, params, arrays, out)
    except BaseException as error:  # exit() and Ctrl-C's exception are a submission's, too
        return _describe(loader, error)
    return None


def _operation(name):
    """Return an operation; undo what a file of the submission may have set for all others as it was imported."""
    np.seterr(all="ignore")
    if hasattr(operations, name):
        return getattr(operations, name)
    from . import operations_torch

    operations_torch.settle()
    return getattr(operations_torch, name)


def _describe(loader, error):
    """Return kind, message and place of an error, the place being the submission's last line in it."""
    described = {"kind": "error", "message": type(error).__name__[:80], "where": ""}
    with contextlib.suppress(Exception):
        is_missing = isinstance(error, NotImplementedError)
        text = str(error.msg if isinstance(error, SyntaxError) else error).strip().split("\n")[0][:500]
        if is_missing:
            described |= {"kind": "missing", "message": text or NOT_WRITTEN}
        else:
            described["message"] = ": ".join(filter(None, (described["message"], text)))
    with contextlib.suppress(Exception):
        if isinstance(error, SyntaxError) and error.filename:
            described["where"] = f"{Path(error.filename).name}, line {error.lineno}"
        else:
            own = [f for f in traceback.extract_tb(error.__traceback__) if loader.is_own(f.filename)]
            if own:
                described["where"] = f"{Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name}"
                callers = [f for f in own if f.filename != own[-1].filename]
                if callers:
                    described["where"] += f", called in {Path(callers[-1].filename).name}, line {callers[-1].lineno}"
    return described
