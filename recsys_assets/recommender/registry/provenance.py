"""Hashes the code behind a model, so that a stored trial tells whether the same code computed it.

A module is hashed as a whole, together with every module of `recommender` that it imports. Comments, docstrings,
descriptions, layout and the values that a study tries do not count. A module of the registry names all models, so only
the definitions that one model uses are hashed. Otherwise a change of one model would change every hash.

Parsing all modules takes more than a second at the start of every process. The hash of a parsed module is therefore
kept in `__pycache__`, with a hash of the file.
"""

import ast
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from recsys_assets.recommender.registry import Derived, Entry, Fit, Parameters
from recsys_assets.recommender.registry.fitting import steps_behind

PACKAGE = "recsys_assets.recommender"
_REGISTRY = f"{PACKAGE}.registry"
# Modules that fit and predict every model.
_ALWAYS = (f"{_REGISTRY}.fitting", f"{_REGISTRY}.types")
# Libraries whose algorithms compute the models. The third number of a version does not count, because such a release
# only fixes bugs.
_LIBRARIES = ("numba", "numpy", "pyspark", "scikit-learn", "scipy")
_INSTALLED = Path(__file__).resolve().parents[3]
# A tree as text depends on the version of Python.
_KEPT_IN = f"provenance.{sys.implementation.cache_tag}.json"
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def libraries() -> str:
    """Return the versions of the libraries that compute models."""
    return ", ".join(f"{name} {'.'.join(version(name).split('.')[:2])}" for name in _LIBRARIES)


class _Kept(NamedTuple):
    """What is kept of a parsed module.

    Attributes:
        key: hash of the file and of this module.
        digest: hash of the module without what changes no result.
        imported: names that it imports from `recommender`, without the registry.
    """

    key: str
    digest: str
    imported: list[str]


class Sources:
    """Source code of this package.

    Args:
        root: folder that holds `recsys_assets`; by default the folder of the running package.
    """

    def __init__(self, root: Path = _INSTALLED) -> None:
        self._root = root
        self._text = cache(self._read)
        self._tree = cache(self._parsed)
        self._module = cache(self._summary)
        self._behind = cache(self._closure)
        self._kept_in = self._root.joinpath(*_REGISTRY.split("."), "__pycache__", _KEPT_IN)
        self._kept, self._is_changed = _read_kept(self._kept_in), False

    def code_of_model(self, model: Entry, parameters: Parameters, *modules: str) -> str:
        """Return a hash of all code that fits an entry of the registry and predicts with it.

        Args:
            model: the entry.
            parameters: settings by section. Models without weight under these settings do not count.
            modules: further modules that compute the score, by their name in `recommender`.
        """
        pieces = set(self._of_modules((*_ALWAYS, *(f"{PACKAGE}.{name}" for name in modules))))
        for step in {step.asset: step for name in model.needed(parameters) for step in steps_behind(name)}.values():
            pieces.update(self._of_step(step))
        pieces.update(self._of_entry(model))
        return _hashed(pieces)

    def code_of_module(self, module: str) -> str:
        """Return a hash of a module of this package and of all modules of `recommender` that it imports.

        Args:
            module: full name of the module.
        """
        return _hashed(self._of_modules((module,)))

    def code_of_fit(self, fit: Fit) -> str:
        """Return a hash of the code that fits one model, without the code of its inputs."""
        return _hashed(self._of_step(fit))

    def code_of_predictions(self, model: Entry) -> str:
        """Return a hash of the code that predicts from fitted models."""
        return _hashed(self._of_entry(model))

    def code_of_everything(self, fits: Iterable[Fit | Derived], entries: Iterable[Entry]) -> str:
        """Return a hash of all code that fits and predicts."""
        pieces = set(self._of_modules(_ALWAYS))
        for step in fits:
            pieces.update(self._of_step(step))
        for model in entries:
            pieces.update(self._of_entry(model))
        return _hashed(pieces)

    def _of_entry(self, of: Entry) -> Iterator[str]:
        for function in (of.function, of.idle):
            if callable(function):
                yield from self._of_function(function)
        yield repr((of.name, of.task, of.needs))

    def _of_step(self, step: Fit | Derived) -> Iterator[str]:
        yield repr((step.asset, step.inputs, step.settings, step.section.__name__))
        yield from self._of_function(step.function)
        if isinstance(step, Fit):
            yield from self._of_modules((step.model_type.__module__,))

    def _of_function(self, function: Callable[..., Any]) -> Iterator[str]:
        if function.__module__.startswith(_REGISTRY):
            yield from self._of_names(function.__module__, {function.__name__})
        else:
            yield from self._of_modules((function.__module__,))

    def _of_names(self, module: str, names: Iterable[str]) -> Iterator[str]:
        """Yield the definitions of these names in a registry module, and of every name that they use."""
        bound = _bound(self._tree(module))
        seen, pending = set[str](), list(names)
        while pending:
            name = pending.pop()
            if name in seen or name not in bound:
                continue
            seen.add(name)
            node = bound[name]
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from self._of_modules(_imported(node, name))
            else:
                yield ast.dump(node)
                pending += [used.id for used in ast.walk(node) if isinstance(used, ast.Name)]

    def _of_modules(self, modules: Iterable[str]) -> frozenset[str]:
        """Return the hashes of these modules and of all that they import.

        A module of the registry counts only if it is in `modules`.
        """
        return frozenset[str]().union(*map(self._behind, modules))

    def _closure(self, module: str) -> frozenset[str]:
        digests, seen, pending = set[str](), set[str](), [module]
        while pending:
            module = pending.pop()
            if module in seen or (found := self._module(module)) is None:
                continue
            seen.add(module)
            digest, imported = found
            digests.add(digest)
            pending += imported
        self._keep()
        return frozenset(digests)

    def _summary(self, module: str) -> tuple[str, list[str]] | None:
        """Return a hash of a module and the names that it imports from `recommender`, without the registry.

        None if the name is not a module of this package.
        """
        text = self._text(module)
        if text is None:
            return None
        key = _hashed([_OWN_CODE, text])
        if module not in self._kept or self._kept[module].key != key:
            tree = self._tree(module)
            assert tree is not None
            nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
            found = {name for node in nodes for name in _imported(node)}
            followed = {name for name in found if name.startswith(PACKAGE) and not name.startswith(_REGISTRY)}
            self._kept[module] = _Kept(key, _hashed([module, ast.dump(tree)]), sorted(followed))
            self._is_changed = True
        return self._kept[module].digest, self._kept[module].imported

    def _keep(self) -> None:
        # As with bytecode, a folder that cannot be written only costs time.
        if self._is_changed and not sys.dont_write_bytecode:
            unfinished = self._kept_in.with_name(f".{self._kept_in.name}-{os.getpid()}")
            with suppress(OSError):
                self._kept_in.parent.mkdir(exist_ok=True)
                unfinished.write_text(json.dumps(self._kept))
                unfinished.replace(self._kept_in)
        self._is_changed = False

    def _read(self, module: str) -> str | None:
        if not module.startswith("recsys_assets"):
            return None
        path = self._root.joinpath(*module.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return file.read_text(encoding="utf-8") if file.exists() else None

    def _parsed(self, module: str) -> ast.Module | None:
        """Parse a module and drop what changes no result; return None if the name is not a module of this package."""
        text = self._text(module)
        if text is None:
            return None
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
            if isinstance(node, ast.ClassDef):
                node.body = [of for of in node.body if not _is_tried(of)]
            if isinstance(node, ast.Call):
                node.keywords = [given for given in node.keywords if given.arg != "description"]
        return tree


def _read_kept(file: Path) -> dict[str, _Kept]:
    try:
        return {module: _Kept(*kept) for module, kept in json.loads(file.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        # Not there yet, or damaged: the modules are parsed.
        return {}


def _is_tried(node: ast.stmt) -> bool:
    """Whether a statement lists the values that a study tries; see `Section`."""
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "tried"


def _imported(node: ast.Import | ast.ImportFrom, name: str | None = None) -> set[str]:
    """Return the modules that an import may name; with `name`, only those behind this name.

    An imported thing may be a module itself, so it is listed too.
    """
    names = [alias for alias in node.names if name in (None, alias.asname, alias.name)]
    if isinstance(node, ast.Import):
        return {alias.name for alias in names}
    return {str(node.module), *(f"{node.module}.{alias.name}" for alias in names)}


def _bound(tree: ast.Module | None) -> dict[str, ast.stmt]:
    """Return the top-level definitions of a module by name."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body if tree else ():
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {
                name.id: node for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)
            }
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


def _hashed(pieces: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(set(pieces))).encode()).hexdigest()[:16]


# What the module itself does is part of the key of what is kept.
_OWN_CODE = Path(__file__).read_text(encoding="utf-8")
SOURCES = Sources()
