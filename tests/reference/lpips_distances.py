"""The distances of the authors' LPIPS: `lpips_distances.py INPUTS.npz OUTPUTS.npz`.

The inputs are weights and images. The weights are also written to a file in the way of
docs/evaluation.md. The answer has its path.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch

torch.set_num_threads(1)


def vgg16(pretrained):
    """The layers of torchvision's VGG16, which cannot be imported here; 0 is a pooling."""
    layers, inputs = [], 3
    channels = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
    for outputs in channels:
        if outputs:
            layers += [torch.nn.Conv2d(inputs, outputs, 3, padding=1), torch.nn.ReLU(inplace=True)]
            inputs = outputs
        else:
            layers.append(torch.nn.MaxPool2d(2, 2))
    return types.SimpleNamespace(features=torch.nn.Sequential(*layers))


torchvision = types.ModuleType("torchvision")
torchvision.models = types.SimpleNamespace(vgg16=vgg16)
sys.modules["torchvision"] = torchvision

import lpips  # noqa: E402
import safetensors.torch  # noqa: E402

inputs, outputs = sys.argv[1:]
given = {name: torch.from_numpy(value) for name, value in np.load(inputs).items()}
images = [given.pop(name).permute(0, 3, 1, 2) for name in ("a", "b")]
net = lpips.LPIPS(net="vgg")
# The package has its last layers twice, as lin0 and as lins.0.
twice = {f"lins.{name[3:]}": value for name, value in given.items() if name.startswith("lin")}
net.load_state_dict(given | twice)  # raises if a name is missing or unknown
with torch.no_grad():
    distances = net(*images)  # [B,1,1,1]
path = Path(outputs).with_name("lpips_vgg.safetensors")
safetensors.torch.save_model(net, path)
np.savez(outputs, distances=distances[:, 0, 0, 0].numpy(), path=str(path))
