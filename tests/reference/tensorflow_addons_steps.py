"""Weights at the steps of tensorflow-addons' optimizers, and their moving average.

`tensorflow_addons_steps.py INPUTS.npz OUTPUTS.npz`
"""

import sys
import warnings

import numpy as np
import tensorflow as tf

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns that its development has ended
    import tensorflow_addons as tfa

inputs, outputs = sys.argv[1:]
given = dict(np.load(inputs))
names = ("kernel", "bias")
steps = len(given["rates"])


def start():
    return {name: tf.Variable(given[name], name=name) for name in names}


def gradients(step, variables):
    return [(tf.constant(given[f"{name}_gradients"][step]), variables[name]) for name in names]


def record(trail, values):
    for name in names:
        trail[name].append(values[name].numpy())


adamw = tfa.optimizers.AdamW(
    weight_decay=0.0,
    learning_rate=0.0,
    beta_1=float(given["beta_1"]),
    beta_2=float(given["beta_2"]),
    epsilon=float(given["epsilon"]),
)
weights, adamw_trail = start(), {name: [] for name in names}
for step in range(steps):
    adamw.learning_rate = float(given["rates"][step])
    adamw.weight_decay = float(given["rates"][step] * given["weight_decay"])
    adamw.apply_gradients(gradients(step, weights), decay_var_list=[weights["kernel"]])
    record(adamw_trail, weights)

average = tfa.optimizers.MovingAverage(
    tf.keras.optimizers.legacy.SGD(float(given["sgd_rate"])),
    average_decay=float(given["ema_decay"]),
    dynamic_decay=True,
)
weights, average_trail = start(), {name: [] for name in names}
for step in range(steps):
    average.apply_gradients(gradients(step, weights))
    record(average_trail, {name: average.get_slot(weights[name], "average") for name in names})

np.savez(
    outputs,
    **{f"adamw_{name}": np.stack(adamw_trail[name]) for name in names},
    **{f"average_{name}": np.stack(average_trail[name]) for name in names},
)
