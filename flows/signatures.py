"""What commands take, read from their source: importing it takes seconds."""

import ast
import builtins
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

Definition = TypeVar("Definition", ast.FunctionDef, ast.ClassDef)

_ROOT = Path(__file__).parent.parent
_OWN = ("flows", "tasks", "manifests", "styleclip_ops")
# A parameter that is annotated with this is a dataclass whose fields are options.
_FIELDS_ARE_OPTIONS = "Parameter(name='*'"
_NEGATION = "no_"
_TEXTS = ("str", "MachineStr")


def docstring(path: str) -> str:
    """Return the docstring of a command, given as `flows.edit:edit_dataset`."""
    return ast.get_docstring(_function(path)) or ""


def stand_in(path: str) -> Callable[..., None]:
    """Return a function with signature and docstring of the command `path` that does nothing.

    It is made of the command's own source and of what its signature names.
    """
    module, name = path.split(":")
    function = deepcopy(_function(path))
    # The docstring alone.
    function.body, function.decorator_list = function.body[:1], []
    found: Callable[..., None] = _made(module, name, function)
    return found


def options(path: str) -> list[str]:
    """Return the names of everything that the command `path` takes, as `--batch-size`."""
    given = _function(path).args
    return [
        f"--{name.replace('_', '-')}"
        for argument in (*given.args, *given.kwonlyargs)
        for name in _names(path.partition(":")[0], argument)
    ]


def given_texts(path: str, tokens: Sequence[str]) -> Mapping[str, str]:
    """Return what tokens give to the plain text arguments of the command `path`, by their names.

    It does not judge them: that is done when the command is imported.
    """
    arguments = _function(path).args
    kinds = {
        argument.arg: ast.unparse(argument.annotation) if argument.annotation else ""
        for argument in (*arguments.args, *arguments.kwonlyargs)
    }
    found, unnamed, rest = dict[str, str](), list[str](), iter(tokens)
    for token in rest:
        if not token.startswith("-"):
            unnamed.append(token)
            continue
        option, is_whole, value = token.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if "bool" not in kinds.get(name, "bool" if name.startswith(_NEGATION) else ""):
            found[name] = value if is_whole else next(rest, "")
    places = [argument.arg for argument in arguments.args if argument.arg not in found]
    found.update(zip(places, unnamed, strict=False))
    return {name: text for name, text in found.items() if kinds.get(name) in _TEXTS}


def _names(module: str, argument: ast.arg) -> Iterator[str]:
    annotation = argument.annotation
    if annotation is None or _FIELDS_ARE_OPTIONS not in ast.unparse(annotation):
        yield argument.arg
        return
    called = next(
        node.id
        for node in ast.walk(annotation)
        if isinstance(node, ast.Name) and node.id not in ("Annotated", "Parameter")
    )
    for statement in _imported_class(module, called).body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id
            # What is on can be switched off.
            if isinstance(statement.value, ast.Constant) and statement.value.value is True:
                yield f"no_{statement.target.id}"


@cache
def _meant(module: str, name: str) -> Any:
    """Return what a name means in a module, without importing one of our own for it."""
    if module in sys.modules or module.partition(".")[0] not in _OWN:
        return getattr(import_module(module), name)
    node = next(node for node in _tree(module).body if name in _bound(node))
    if not isinstance(node, (ast.Import, ast.ImportFrom)):
        return _made(module, name, node)
    source = next(alias.name for alias in node.names if name in (alias.name, alias.asname))
    if isinstance(node, ast.Import):
        return import_module(source)
    return _meant(str(node.module), source)


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    inner = (part for target in targets for part in ast.walk(target))
    return [part.id for part in inner if isinstance(part, ast.Name)]


def _made(module: str, name: str, node: ast.stmt) -> Any:
    """Execute a statement of a module, and return what it makes of a name."""
    own = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    own -= {*_defined(node), *dir(builtins)}
    top = {defined for statement in _tree(module).body for defined in _bound(statement)}
    # Its own module is not there to be asked for its source.
    names: dict[str, Any] = {"__name__": __name__}
    names |= {used: _meant(module, used) for used in own & top}
    exec(compile(ast.Module([node], []), module, "exec"), names)  # noqa: S102
    return names[name]


def _bound(node: ast.stmt) -> list[str]:
    """Return the names that a statement imports or defines."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name for alias in node.names]
    return _defined(node)


def _function(path: str) -> ast.FunctionDef:
    return _definition(ast.FunctionDef, *path.split(":"))


def _imported_class(module: str, name: str) -> ast.ClassDef:
    """Return the definition of a class that `module` imports."""
    source = next(
        node.module
        for node in _tree(module).body
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]
    )
    return _definition(ast.ClassDef, str(source), name)


def _definition(kind: type[Definition], module: str, name: str) -> Definition:
    found = (node for node in _tree(module).body if isinstance(node, kind))
    return next(node for node in found if node.name == name)


@cache
def _tree(module: str) -> ast.Module:
    path = _ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))
