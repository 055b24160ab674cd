"""Checks of the sources: the rules of the source tree that a reader can rely on."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def find_sources():
    """{module name: file} of the installed package, a checkout or a wheel."""
    sources = {}
    for package in ("vim_tf", "vim_tf.export"):
        folder = Path(importlib.util.find_spec(package).origin).parent
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            sources[".".join((package, *parts)).removesuffix(".__init__")] = path
    return sources


SOURCES = find_sources()
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}
# They are started by python -m. Other modules must not import them.
COMMAND_LINES = {
    name
    for name, tree in TREES.items()
    if any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in tree.body
    )
}


def is_import(node):
    return isinstance(node, ast.Import | ast.ImportFrom)


def imports(name, tree):
    """All modules that the module `name` imports within `tree`, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import in line {node.lineno}"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in SOURCES else node.module)
    return found


IMPORTS = {name: imports(name, tree) for name, tree in TREES.items()}


def reachable(name):
    """All modules that an import and use of `name` may load, ours and others'."""
    seen, waiting = set(), [name]
    while waiting:
        for module in IMPORTS.get(waiting.pop(), set()) - seen:
            seen.add(module)
            waiting.append(module)
    return seen


def within(module, layers):
    return any(module == layer or module.startswith(f"{layer}.") for layer in layers)


def roots(modules):
    return {module.split(".")[0] for module in modules}


def members(layer):
    return [name for name in SOURCES if within(name, [layer])]


CONFIG = [name.removeprefix("vim_tf.") for name in members("vim_tf.config")]


def test_the_walk_sees_the_tree():
    assert {"vim_tf.config.sections", "vim_tf.models.vit_vqgan", "vim_tf.export"} <= set(SOURCES)
    assert "vim_tf.errors" in IMPORTS["vim_tf.config.checks"]
    assert {"keras", "vim_tf.errors"} <= reachable("vim_tf.models.vit_vqgan")


# From low to high. A package imports only itself and those before it, also inside functions.
ORDER = (
    *("annotations", "errors", "versions", "messages", "stopping", "failpoints", "files"),
    *("formats", "locks", "fingerprints", "npz_files", "noise", "config", "losses", "sampling"),
    *("distribution", "data", "metrics"),
    *("costs", "models", "runs", "trainers", "generation", "training_loop", "evaluation"),
    *("export", "drawing", "stages", "linear_probe", "command_line"),
)


def package(name):
    """The entry of `ORDER` for a module; None for `vim_tf` itself."""
    return name.split(".")[1] if "." in name else None


def test_the_order_names_every_package():
    found = {package(name) for name in set(SOURCES) - COMMAND_LINES} - {None}
    assert sorted(found) == sorted(ORDER)


@pytest.mark.parametrize("name", sorted(set(SOURCES) - COMMAND_LINES - {"vim_tf"}))
def test_no_import_goes_upwards(name):
    place = ORDER.index(package(name))
    wrong = [
        module
        for module in IMPORTS[name]
        if within(module, ["vim_tf"])
        and package(module) not in (None, package(name), *ORDER[:place])
    ]
    assert not wrong, f"{name} imports {sorted(wrong)}"


def test_nothing_imports_a_command_line():
    assert "vim_tf.train" in COMMAND_LINES
    for name in SOURCES:
        assert not IMPORTS[name] & COMMAND_LINES, name


def test_nothing_imports_itself_in_a_circle():
    for name in SOURCES:
        assert name not in reachable(name), name


@pytest.mark.parametrize("name", ["errors", "messages", "versions", *CONFIG])
def test_configs_are_read_without(name):
    slow = {"tensorflow", "keras", "orbit", "tensorflow_datasets", "matplotlib", "numpy"}
    assert not roots(reachable(f"vim_tf.{name}")) & slow


@pytest.mark.parametrize("layer", ["models", "losses", "sampling"])
def test_what_must_run_on_every_backend_knows_no_tensorflow(layer):
    """Compilation differs between backends, so it may import one inside a function."""
    for name in members(f"vim_tf.{layer}"):
        top = ast.Module([node for node in TREES[name].body if is_import(node)], [])
        assert not roots(imports(name, top)) & {"tensorflow", "jax"}, name


def test_no_dead_libraries():
    dead = {"tensorflow_addons", "tensorflow_gan", "tf_keras"}
    for name in SOURCES:
        assert not roots(IMPORTS[name]) & dead, name


def test_orbit_is_all_that_is_used_of_tf_models_official():
    for name in SOURCES:
        assert "official" not in roots(IMPORTS[name]), name


def test_gradients_are_taken_in_trainers_only():
    users = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name)
        and "GradientTape" in (getattr(node, "attr", None), getattr(node, "id", None))
    }
    assert users
    assert all(within(name, ["vim_tf.trainers", "vim_tf.linear_probe"]) for name in users), users


def public_functions(tree, prefix=""):
    """(name, node) of each public function and method, including __init__ and __call__."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from public_functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            if not node.name.startswith("_") or node.name in ("__init__", "__call__"):
                yield prefix + node.name, node


@pytest.mark.parametrize("name", SOURCES)
def test_public_functions_are_annotated(name):
    lacking = []
    for function, node in public_functions(TREES[name]):
        given = node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        bare = [
            argument.arg
            for argument in filter(None, arguments)
            if argument.annotation is None and argument.arg not in ("self", "cls")
        ]
        if bare or node.returns is None:
            lacking.append((function, bare))
    assert not lacking


FILES = SOURCES | {str(path.relative_to(TESTS)): path for path in TESTS.rglob("*.py")}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_short_and_named_for_what_it_holds(name):
    assert len(FILES[name].read_text().splitlines()) <= 400
    assert FILES[name].stem not in {"utils", "util", "common", "misc", "helpers"}


def test_no_module_shadows_the_standard_library():
    """A script named tokenize.py or types.py breaks Python if it runs from its own folder."""
    stems = {path.stem for path in SOURCES.values()} - {"__init__", "__main__"}
    assert not stems & sys.stdlib_module_names
