"""Evaluates a run or images: `python -m vim_tf.evaluate generation --run runs/x --out x.json`."""

import argparse
import dataclasses
import re
import shlex
import sys
from collections.abc import Sequence

from vim_tf import command_line
from vim_tf.errors import UserError
from vim_tf.evaluation.protocol import write_result


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.Parser(
        prog="python -m vim_tf.evaluate",
        description="Measure a tokenizer's reconstructions, a VIM's samples, or any images, and "
        "write the figures with everything that they depend on into one JSON file.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True)

    kind = kinds.add_parser("reconstruction", help="a run's tokenizer on its held-out images")
    _add_run(kind)
    kind.add_argument("--n", type=int, help="the first N images (default: all of the split)")
    kind.add_argument(
        "--lpips",
        metavar="PATH",
        help="weights of LPIPS, a .safetensors file; without it, LPIPS is not measured",
    )
    kind.add_argument(
        "--by-class", action="store_true", help="measure the images of each class also alone"
    )
    _add_common(kind, "without it, only pixels and codebook are measured")

    kind = kinds.add_parser("generation", help="samples of a VIM run")
    _add_run(kind)
    command_line.add_decoder(kind)
    kind.add_argument("--n", type=int, default=50_000, help="samples (default 50000)")
    kind.add_argument(
        "--reference",
        metavar="PATH",
        help="a folder, an .npz of images or of statistics (default: the run's images)",
    )
    _add_real(kind, "a folder, an .npz, or train or validation for those images of the run")
    kind.add_argument(
        "--label-mode",
        choices=("balanced", "unconditional"),
        help="balanced: all classes equally often; unconditional: no labels (default: balanced "
        "if the run has labels)",
    )
    command_line.add_sampling(kind)
    command_line.add_rejection(kind)
    _add_common(kind, "needed")

    kind = kinds.add_parser(
        "classification",
        help="whether a VIM's samples are of their class, by a classifier, and whether a new "
        "classifier can learn from them",
    )
    _add_run(kind)
    command_line.add_decoder(kind)
    kind.add_argument(
        "--classifier",
        required=True,
        help="a run of experiment classifier, or a .keras file",
    )
    kind.add_argument("--n", type=int, default=10_000, help="samples (default 10000)")
    command_line.add_sampling(kind)
    command_line.add_rejection(kind)
    _add_out(kind)

    kind = kinds.add_parser("images", help="one set of images compared with another")
    kind.add_argument("--images", required=True, metavar="PATH", help="a folder or an .npz")
    kind.add_argument(
        "--reference",
        required=True,
        metavar="PATH",
        help="a folder, or an .npz of images or of statistics",
    )
    _add_real(kind, "a folder or an .npz")
    kind.add_argument("--n", type=int, help="the first N images of each (default: all)")
    _add_image_size(kind)
    _add_common(kind, "needed")

    kind = kinds.add_parser(
        "network",
        help="whether a feature network can judge images: its KID must rise with three blurs and "
        "with three noises",
    )
    kind.add_argument("--images", metavar="PATH", help="real images, a folder or an .npz")
    _add_run(kind, required=False)
    kind.add_argument("--n", type=int, help="the first N images, 2000 or more (default: all)")
    _add_image_size(kind)
    _add_out(kind)
    _add_extractor(kind, "needed")

    return parser.parse_args(arguments)


def _add_run(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("--run", required=required, help="folder of a run, or its preset_best")
    parser.add_argument(
        "--split",
        choices=("validation", "train"),
        default="validation",
        help="part of the run's images (default validation)",
    )
    command_line.add_overrides(parser, command_line.MOVED_IMAGES)
    command_line.add_other_images(parser)


def _add_real(parser: argparse.ArgumentParser, kinds: str) -> None:
    parser.add_argument(
        "--real",
        metavar="PATH",
        help="other real images, whose figures stand beside those of the judged images: "
        f"{kinds} (default: a random part of the reference, compared with the rest)",
    )


def _add_image_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--image-size",
        type=_size,
        metavar="S|HxW",
        help="resize the shorter side of a folder's images and cut out the centre",
    )


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="the result, a new .json file")
    parser.add_argument("--batch-size", type=int, default=64, help="images at once (default 64)")
    command_line.add_strategy(parser)


def _add_common(parser: argparse.ArgumentParser, extractor: str) -> None:
    _add_out(parser)
    _add_extractor(parser, extractor)
    parser.add_argument(
        "--metrics",
        help="one or more of kid,fid,fd64,sfid,is,pr (default: all that the network gives and that "
        "have enough images)",
    )
    parser.add_argument(
        "--allow-small-n",
        action="store_true",
        help="allow FID with fewer images than twice the features, and FD64 with fewer than 1000",
    )


def _add_extractor(parser: argparse.ArgumentParser, extractor: str) -> None:
    parser.add_argument(
        "--extractor",
        metavar="PATH",
        help="feature network: classify_image_graph_def.pb of the ADM suite, or a .keras "
        f"classifier as a proxy; {extractor}",
    )
    parser.add_argument("--extractor-hash", metavar="SHA256", help="hash that the file must have")
    parser.add_argument(
        "--resize",
        choices=("adm", "clean", "legacy"),
        help="how to resize to the network's size (default: adm for the graph, clean for a "
        ".keras model)",
    )


def _size(text: str) -> tuple[int, int]:
    """Parses "256" or "256x192" into (H, W)."""
    found = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text} is neither 256 nor 256x192 (height x width)")
    return int(found[1]), int(found[2] or found[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; raises UserError for a user's mistake."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = vars(parse_arguments(words))
    command_line.check_positive(options, "n", "batch_size")
    command_line.check_replicas(options)
    if "reject" in options:
        command_line.check_rejection(options)
    out = command_line.check_new_file(options.pop("out"), ".json")
    if options.get("metrics") is not None:
        options["metrics"] = command_line.split_names(options["metrics"])
    if "set" in options:
        options["overrides"] = options.pop("set")
    kind, devices = options.pop("kind"), command_line.take_devices(options)

    from vim_tf.distribution.strategies import make_strategy
    from vim_tf.evaluation import runner
    from vim_tf.evaluation.classification import evaluate_classification
    from vim_tf.evaluation.network_check import NetworkCheck, evaluate_network

    evaluations = {
        "reconstruction": runner.evaluate_reconstruction,
        "generation": runner.evaluate_generation,
        "classification": evaluate_classification,
        "images": runner.evaluate_images,
        "network": evaluate_network,
    }
    with make_strategy(**devices).scope():
        result = evaluations[kind](**options)
    command = shlex.join(["python", "-m", "vim_tf.evaluate", *words])
    write_result(out, dataclasses.replace(result, command=command).to_dict())
    sys.stdout.write(f"{result}\n\n{out}\n")
    if isinstance(result, NetworkCheck) and not result.admitted:
        sys.stdout.flush()
        raise UserError(
            f"extractor {options['extractor']} is not admitted, because KID does not rise: "
            f"{'; '.join(result.failures)}; judge with another network"
        )


if __name__ == "__main__":
    command_line.run(main)
