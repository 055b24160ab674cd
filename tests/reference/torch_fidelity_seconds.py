"""For benchmarks/feature_statistics.py: `torch_fidelity_seconds.py FEATURES.npy REFERENCE.npz`."""

import json
import sys
import time

import numpy as np
import torch
from without_torchvision import torch_fidelity

features, reference = sys.argv[1:]
fid = torch_fidelity.metric_fid
rows = torch.from_numpy(np.load(features))
reference = {name: value for name, value in np.load(reference).items() if name != "count"}
start = time.perf_counter()
moments = fid.fid_features_to_statistics(rows)
middle = time.perf_counter()
# Its means of float32 features are float32. Its own check refuses them together with float64.
moments["mu"] = moments["mu"].astype("float64")
distance = fid.fid_statistics_to_metric(moments, reference, False)
end = time.perf_counter()
times = {"statistics": middle - start, "distance": end - middle, "both": end - start}
figures = {"fid": distance["frechet_inception_distance"], "numpy": np.__version__}
sys.stdout.write(json.dumps(times | figures))
