"""Imports torch-fidelity without torchvision.

Only its built-in data sets and networks need it. torchvision can be imported only with the build of
torch that it was made for, and pip does not always find such a pair.
"""

import sys
import types

for name in ("", ".datasets", ".transforms", ".transforms.functional"):
    sys.modules[f"torchvision{name}"] = types.ModuleType(f"torchvision{name}")
for name in ("CIFAR10", "CIFAR100", "STL10"):
    setattr(sys.modules["torchvision.datasets"], name, object)

import torch_fidelity  # noqa: E402
import torch_fidelity.metric_fid  # noqa: E402
import torch_fidelity.metric_isc  # noqa: E402
import torch_fidelity.metric_kid  # noqa: E402
import torch_fidelity.metric_prc  # noqa: E402

__all__ = ["torch_fidelity"]
