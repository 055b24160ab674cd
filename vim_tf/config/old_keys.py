"""Keys of earlier commits, whose numbers would mean something else today: refused, translated."""

from collections.abc import Iterable, Iterator, Sequence

import yaml

from vim_tf.config import yaml_nodes
from vim_tf.config.sections import QuantizerConfig
from vim_tf.errors import UserError

# Sums over the dimensions of a code, and the keys of the means.
_SUMS: dict[tuple[str, ...], str] = {
    ("losses", "codebook"): "losses.codebook_mean",
    ("losses", "commitment"): "losses.commitment_mean",
}
_CODE_DIM = ("model", "quantizer", "code_dim")
Setting = tuple[Sequence[str], str, str]  # an override: its keys, its value, its name in messages


def refuse_old_keys(documents: Iterable[yaml.MappingNode], settings: Iterable[Setting]) -> None:
    """Raises UserError for a weight of a sum over the code's dimensions, with the translated one.

    Args:
        documents: the config files, in order.
        settings: the overrides, in order.
    """
    given = [found for document in documents for found in _leaves(document)]
    for keys, text, source in settings:
        if tuple(keys) in (*_SUMS, _CODE_DIM) and (node := yaml_nodes.compose(text, source)):
            given.append((tuple(keys), node, source))
    code_dim = QuantizerConfig.code_dim
    for keys, node, _ in given:
        if keys == _CODE_DIM:
            number = yaml_nodes.value(node, ".".join(keys))
            code_dim = number if isinstance(number, int) else code_dim
    for keys, node, source in given:
        if keys in _SUMS:
            old, new = yaml_nodes.value(node, ".".join(keys)), _SUMS[keys]
            number = f"{old * code_dim:g}" if isinstance(old, int | float) else "NUMBER"
            raise UserError(
                f"{source}: {'.'.join(keys)} was the weight of a sum over the code's dimensions; "
                f"write {new}: {number}, the weight of the mean (the old {old} times "
                f"model.quantizer.code_dim, {code_dim})"
            )


def _leaves(
    node: yaml.MappingNode, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], yaml.Node, str]]:
    """Yields (keys, node, place) of each value that is no section."""
    for key, value in node.value:
        place = (*path, str(key.value))
        if isinstance(value, yaml.MappingNode):
            yield from _leaves(value, place)
        else:
            yield place, value, yaml_nodes.source(key)
