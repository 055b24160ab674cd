"""Faults to plant on purpose: a check of vim_tf is taken out, and the fuzz must notice.

Each was once a real fault, or is one line away from it. The source of a module is changed while it
is imported, in a worker only; the files stay as they are.
"""

import importlib.machinery
import importlib.util
import sys

_LATE = """
def _hash_late(path, resize, expected_hash):
    found = InceptionGraph(path, *read_network(path, "extractor"), resize)
    read_network(path, "extractor", expected_hash)
    return found
"""
# Name: [(module, the text of a check, the text instead), ...].
PLANTS = {
    "checksum": [("formats", 'if document["checksum"] != _checksum(unsealed):', "if False:")],
    "grid": [
        (
            "data.token_cache",
            'checks.tokens(header["grid"][0], header["grid"][1]',
            "checks.tokens(1, 1",
        ),
        ("data.token_cache", 'if length * images > shard["bytes"]:', "if False:"),
    ],
    "aliases": [
        (
            "config.yaml_nodes",
            "if isinstance(event, yaml.AliasEvent):",
            "if isinstance(event, yaml.AliasEvent):\n"
            "            return super().compose_node(parent, index)\n"
            "        if False:",
        ),
        ("config.yaml_nodes", "if event.anchor is not None:", "if False:"),
    ],
    "graph_hash": [
        ("evaluation.features", "def open_extractor(", _LATE + "\n\ndef open_extractor("),
        (
            "evaluation.features",
            'return InceptionGraph(path, *read_network(path, "extractor", expected_hash), resize)',
            "return _hash_late(path, resize, expected_hash)",
        ),
    ],
    "litert_hash": [
        (
            "generation.litert_vim",
            'if hash_file(path) != facts["files"].get(path.name):',
            "if False:",
        )
    ],
    "config_hash": [
        (
            "models.preset",
            'if not model.model_hash() == config["hash"] == metadata["hash"]:',
            'if not config["hash"] == metadata["hash"]:',
        )
    ],
    "recursion": [
        ("formats", "except (ValueError, RecursionError) as error:", "except ValueError as error:")
    ],
    "best": [
        ("runs.checkpoints", "ADVICE, BEST_SCHEMA)", "ADVICE)"),
    ],
    "image_limit": [("data.image_limits", "LEAST = 2**25", "LEAST = 2**40")],
    "layers": [("evaluation.keras_archive", "if not allowed:", "if False:")],
}


def install(name):
    """Plants a fault; the modules concerned must not be imported yet."""
    changes: dict[str, list[tuple[str, str]]] = {}
    for module, old, new in PLANTS[name]:
        changes.setdefault(f"vim_tf.{module}", []).append((old, new))
    for module, texts in changes.items():
        check(module, texts)
    sys.meta_path.insert(0, _Finder(changes))


def check(module, texts):
    """Raises LookupError unless each text occurs once in the source of a module."""
    source = importlib.util.find_spec(module).loader.get_source(module)
    for old, _ in texts:
        if source.count(old) != 1:
            raise LookupError(f"{module} has {source.count(old)} times {old!r}; update PLANTS")


class _Finder:
    """Finds the modules of some changes."""

    def __init__(self, changes):
        self._changes = changes

    def find_spec(self, name, path=None, target=None):
        """Returns the spec of a module with changed source; None for others."""
        if name not in self._changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = _Loader(name, spec.origin, self._changes[name])
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with changed source."""

    def __init__(self, name, path, texts):
        super().__init__(name, path)
        self._texts = texts

    def get_code(self, fullname):
        """Compiles the changed source; no compiled file is read or written."""
        source = self.get_data(self.path).decode()
        for old, new in self._texts:
            source = source.replace(old, new)
        return compile(source, self.path, "exec", dont_inherit=True)
