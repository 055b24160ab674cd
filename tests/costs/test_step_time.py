"""Predictions for other hardware: their operations equal those of TensorFlow's training graphs."""

import math
import subprocess
import sys

import pytest
import tensorflow as tf

from vim_tf import train
from vim_tf.costs.step_time import predict
from vim_tf.errors import UserError
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.load import load
from vim_tf.runs.run import find_tokenizer_config
from vim_tf.stages.registry import kind_of
from vim_tf.trainers.decoder_trainer import DecoderTrainer
from vim_tf.trainers.vim_trainer import VIMTrainer
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer

PRODUCTS = ("MatMul", "BatchMatMulV2")


def operations(graph):
    """(always, under a condition): two per multiply-add of products and convolutions."""
    always = sometimes = 0
    for op in graph.get_operations():
        if op.type in PRODUCTS:
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            inner, outer = op.inputs[0].shape[-2 if transposed else -1], op.outputs[0].shape
        elif op.type == "Conv2D":
            inner, outer = math.prod(op.inputs[1].shape[:3]), op.outputs[0].shape
        elif op.type == "Conv2DBackpropInput":
            inner, outer = math.prod(op.inputs[1].shape[:3]), op.inputs[2].shape
        elif op.type == "Conv2DBackpropFilter":
            inner, outer = math.prod(op.outputs[0].shape[:3]), op.inputs[2].shape
        elif op.type in ("If", "StatelessIf"):
            branch = graph._get_function(op.get_attr("then_branch").name).graph
            sometimes += sum(operations(branch))
            continue
        else:
            assert "Einsum" not in op.type and "Conv3D" not in op.type
            continue
        always += 2 * inner * math.prod(outer)
    return always, sometimes


def graph_of(trainer, batch):
    trainer.compile()
    compute = tf.function(trainer.compute_gradients, autograph=False)
    return compute.get_concrete_function(batch).graph


def predicted(experiment, **hardware):
    hardware = {"flops": 1e12, "bandwidth": 1e12, **hardware}
    count_step = kind_of(experiment).count_step
    config = find_tokenizer_config(experiment)
    return predict(experiment, count_step, **hardware, tokenizer_config=config)


@pytest.mark.parametrize("remat", ["false", "true"])
def test_the_tokenizers_operations(tiny, remat):
    experiment = tiny("vit_vqgan", "losses.adversarial=0", f"training.rematerialize={remat}")
    graph = graph_of(ViTVQGANTrainer(experiment), {"image": tf.zeros([8, 16, 16, 3])})
    found, _ = operations(graph)
    assert predicted(experiment).operations == {"tokenizer": pytest.approx(found, rel=0.05)}


def test_the_discriminators_operations(tiny):
    alone = tiny("vit_vqgan", "losses.adversarial=0", "discriminator.r1_every=1")
    experiment = tiny("vit_vqgan", "discriminator.r1_every=1")
    graph = graph_of(ViTVQGANTrainer(experiment), {"image": tf.zeros([8, 16, 16, 3])})
    _, found = operations(graph)
    parts = predicted(experiment).operations
    assert parts.pop("tokenizer") == predicted(alone).operations["tokenizer"]
    assert set(parts) == {"discriminator", "R1, its share of a step"}
    assert sum(parts.values()) == pytest.approx(found, rel=0.15)
    rare = tiny("vit_vqgan", "discriminator.r1_every=16")
    name = "R1, its share of a step"
    assert predicted(rare).operations[name] == pytest.approx(parts[name] / 16)


def test_a_decoders_operations(tiny, tiny_runs):
    experiment = tiny("decoder", f"tokenizer.run={tiny_runs['vit_vqgan']}")
    graph = graph_of(
        DecoderTrainer(experiment, load(tiny_runs["vit_vqgan"])),
        {"image": tf.zeros([8, 16, 16, 3])},
    )
    found, _ = operations(graph)
    parts = predicted(experiment).operations
    assert set(parts) == {"tokenizing", "decoder"}
    assert sum(parts.values()) == pytest.approx(found, rel=0.05)


def test_vims_operations(tiny, tiny_runs):
    run = f"tokenizer.run={tiny_runs['vit_vqgan']}"
    experiment = tiny("vim", run)
    tokenizer = ViTVQGAN(tiny("vit_vqgan").model, (16, 16))
    batch = {"token": tf.zeros([8, 16], tf.int32), "label": tf.zeros([8], tf.int32)}
    found, _ = operations(graph_of(VIMTrainer(experiment, tokenizer, 2), batch))
    assert predicted(experiment).operations == {"VIM": pytest.approx(found, rel=0.05)}
    online = predicted(
        tiny("vim", f"tokenizer.run={tiny_runs['vit_vqgan']}", "tokenizer.online=true")
    )
    assert set(online.operations) == {"VIM", "tokenizing"}


def test_the_slower_limit_is_what_a_step_takes(tiny):
    experiment = tiny("vit_vqgan", "losses.perceptual=0.1")
    one = predicted(experiment, flops=1e9, bandwidth=1e15)
    total = sum(one.operations.values())
    assert one.seconds == pytest.approx(total / 1e9)
    assert predicted(experiment, flops=2e9, bandwidth=1e15).seconds == pytest.approx(total / 2e9)
    assert predicted(experiment, flops=1e18, bandwidth=1e6).seconds == one.traffic / 1e6
    half = predicted(experiment, devices=2)
    assert sum(half.operations.values()) == pytest.approx(total / 2)
    weights = 4 * one.estimate.rows["weights"][0] + 2 * sum(
        one.estimate.rows[name][0]
        for name in ("gradients", "optimizer's slots", "moving average of weights")
    )
    assert one.traffic - weights == pytest.approx(2 * (half.traffic - weights), rel=0.1)


def test_the_paper_is_predicted_without_tensorflow():
    """The paper's VIM has about 6 * parameters * tokens operations per image."""
    command = [sys.executable, "-X", "importtime", "-m", "vim_tf.train", "--dry-run"]
    command += ["--config", "configs/imagenet_256/vim_base.yaml", "--devices", "8"]
    command += ["--flops", "312e12", "--bandwidth", "2e12", "--set", "tokenizer.run=null"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "tensorflow" not in done.stderr
    assert "8 devices of 312 TFLOP/s and 2,000 GB/s; per device and step:\n" in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("VIM "))
    assert float(line.split()[1]) == pytest.approx(6 * 0.65 * 1024 * 128 / 1000, rel=0.25)
    assert "450,000 steps in" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run", "--flops", "1e12"], "--dry-run, --flops and --bandwidth go together"),
        (["--flops", "1e12", "--bandwidth", "1e12"], "--dry-run, --flops and --bandwidth go"),
        (["--dry-run", "--flops", "0", "--bandwidth", "1"], "flops is 0.0; it must be above 0"),
        (["--dry-run", "--flops", "-1", "--bandwidth", "1"], "flops is -1.0; it must be above 0"),
        (["--dry-run", "--flops", "1", "--bandwidth", "1", "--devices", "3"], "a multiple of 3"),
    ],
)
def test_mistakes_are_one_line(tiny_configs, arguments, message):
    with pytest.raises(UserError, match=message):
        train.main(["--config", str(tiny_configs["vit_vqgan"]), *arguments])


def test_a_classifier_is_not_predicted(tiny_configs):
    given = ["--dry-run", "--flops", "1e12", "--bandwidth", "1e12"]
    with pytest.raises(UserError, match="steps of experiment classifier cannot be predicted"):
        train.main(["--config", str(tiny_configs["classifier"]), *given])


def test_a_tokenizer_that_is_another_experiment_is_refused(tiny, tiny_runs):
    experiment = tiny("vim", f"tokenizer.run={tiny_runs['vim']}")
    with pytest.raises(UserError, match="a run of experiment vim; give a run of .* vit_vqgan"):
        find_tokenizer_config(experiment)
