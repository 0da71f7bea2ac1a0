"""Imports a submission's modules, and runs an operation on one of its classes."""

import ast
import contextlib
import functools
import importlib
import importlib.machinery
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
        failed: `{module: the first error of its statements}`, of modules the rest of which was run.
    """

    def __init__(self, root, folders=(".",)):
        self.root, self.folders, self.kept, self.failed = Path(root).absolute(), list(folders), {}, {}

    def prepare(self):
        """Let Python find the submission's modules; its directory becomes the working directory."""
        sys.path_hooks.insert(0, self._find)
        sys.path[:0] = [str(self.root / folder) for folder in self.folders]
        sys.path.append(str(self.root))
        for name in {Path(folder).parts[0] for folder in self.folders if folder != "."} & sys.stdlib_module_names:
            # PyTorch has imported the standard library's `code`; `code.modules` is then found in their directory, too.
            module = importlib.import_module(name)
            module.__path__ = [*getattr(module, "__path__", ()), str(self.root / name)]
        sys.dont_write_bytecode = True
        os.chdir(self.root / self.folders[0])

    def _find(self, directory):
        if not Path(directory).is_relative_to(self.root):
            raise ImportError("Python's own finders are for other directories")
        loader = functools.partial(StatementLoader, self.failed)
        return importlib.machinery.FileFinder(directory, (loader, [".py"]))

    def __call__(self, target):
        """Return the class `target`, as 'modules.LinearModule'.

        Raises:
            NotImplementedError: the module has no such class; the message names one with a similar name.
            Exception: that of the statement because of which it was not defined, perhaps.
        """
        module, name = target.split(".")
        imported = self.import_module(module)
        found = getattr(imported, name, None)
        if found is None or getattr(found, "is_substitute", False):
            if imported.__name__ in self.failed:
                raise self.failed[imported.__name__]
            near = operations.similar(name, [n for n, v in vars(imported).items() if isinstance(v, type) and n != name])
            raise NotImplementedError(f"There is no class {name} in {module}.py" + f"; found {near}" * bool(near))
        return found

    def import_module(self, name):
        """Return a module, as part of a package if it imports from `.`; the classes that it imports are there."""
        if name == "mlp_numpy" and name not in sys.modules:
            try:
                self.import_module("modules")
            except Exception:
                _fill_in(sys.modules.setdefault("modules", types.ModuleType("modules")))
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            if "relative import" not in str(error):
                raise
            module = sys.modules[name] = importlib.import_module(f"{self._package(name)}.{name}")
        _fill_in(module)
        return module

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


def _fill_in(module):
    """Give a module substitutes for the classes that it lacks, so that what imports or calls them can be graded."""
    for target, substitute in substitutes.SUBSTITUTES.items():
        place, name = target.split(".")
        if module.__name__.split(".")[-1] == place and not hasattr(module, name):
            setattr(module, name, substitute)


class StatementLoader(importlib.machinery.SourceFileLoader):
    """If a module fails as a whole, runs each of its statements, since its classes may be right.

    Args:
        failed: `Loader.failed`.
    """

    def __init__(self, failed, name, path):
        super().__init__(name, path)
        self.failed = failed

    def exec_module(self, module):
        try:
            super().exec_module(module)
        except SyntaxError:
            raise
        except BaseException as error:
            if "relative import" in str(error):
                raise
            for statement in ast.parse(self.get_data(self.path)).body:
                with contextlib.suppress(BaseException):
                    exec(compile(ast.Module([statement], []), self.path, "exec"), vars(module))
            if not any(isinstance(v, type) and v.__module__ == module.__name__ for v in vars(module).values()):
                raise
            self.failed[module.__name__] = error


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
                if loader.failed:
                    notes = [_note(loader, error) for error in loader.failed.values()]
                    out["failed"] = operations.text("\n".join(notes))
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


def _note(loader, error):
    described = _describe(loader, error)
    return f"{described['where'].removesuffix(', in <module>')}: {described['message']}; the rest of the file was run"


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
