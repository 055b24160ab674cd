"""torch-fidelity's metrics of features: `torch_fidelity_metrics.py INPUTS.npz OUTPUTS.npz`."""

import sys

import numpy as np
import torch
from without_torchvision import torch_fidelity

torch.set_num_threads(1)
inputs, outputs = sys.argv[1:]
given = dict(np.load(inputs))
features = [torch.from_numpy(given[name].astype("float64")) for name in ("samples", "reference")]
moments = [torch_fidelity.metric_fid.fid_features_to_statistics(rows) for rows in features]
fid = torch_fidelity.metric_fid.fid_statistics_to_metric(*moments, False)
kid = torch_fidelity.metric_kid.kid_features_to_metric(
    *features,
    kid_subsets=int(given["subsets"]),
    kid_subset_size=int(given["subset_size"]),
    rng_seed=int(given["seed"]),
    verbose=False,
)
score = torch_fidelity.metric_isc.isc_features_to_metric(
    torch.from_numpy(given["logits"]), splits=int(given["splits"]), shuffle=False
)
prc = torch_fidelity.metric_prc.prc_features_to_metric(*features, verbose=False)
np.savez(outputs, **fid, **kid, **score, **prc)
