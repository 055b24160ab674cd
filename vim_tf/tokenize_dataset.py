"""Makes a token cache: `python -m vim_tf.tokenize_dataset --config configs/emoji/vim.yaml --out D`.

Training VIM does the same on its first run; by hand it is for making a cache once, on a faster
machine, or for several trainings (`tokenizer.cache`).
"""

import sys
from collections.abc import Sequence

from vim_tf import command_line
from vim_tf.config import loader
from vim_tf.config.experiments import VIMExperiment
from vim_tf.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; raises UserError for a user's mistake."""
    parser = command_line.Parser(prog="python -m vim_tf.tokenize_dataset", description=__doc__)
    parser.add_argument("--config", action="append", required=True, metavar="YAML")
    command_line.add_overrides(parser)
    parser.add_argument("--out", help="folder of the cache; tokenizer.cache if not given")
    options = parser.parse_args(arguments)
    experiment = loader.load_config(options.config, options.set)
    if not isinstance(experiment, VIMExperiment):
        raise UserError(
            f"{options.config[-1]} is a config of experiment {experiment.experiment}; "
            "token caches are made for experiment vim"
        )
    folder = options.out or experiment.tokenizer.cache
    if not folder:
        raise UserError("no folder for the cache; give --out or tokenizer.cache")

    if experiment.training.strategy == "multi_worker":
        raise UserError(
            "training.strategy is multi_worker, and a cache is made by one machine; set mirrored, "
            "which takes all of its GPUs"
        )

    from vim_tf.distribution.strategies import strategy_of
    from vim_tf.stages.make_token_cache import open_or_make_cache
    from vim_tf.stages.vim_stage import VIMStage

    strategy = strategy_of(experiment.training)
    tokenizer, data = VIMStage.open_sources(experiment, strategy)
    with strategy.scope():
        cache = open_or_make_cache(folder, tokenizer, data, experiment.tokenizer.passes)
    for name, value in cache.statistics().items():
        sys.stdout.write(
            f"{name}: {value:.4g}\n" if isinstance(value, float) else f"{name}: {value}\n"
        )


if __name__ == "__main__":
    command_line.run(main)
