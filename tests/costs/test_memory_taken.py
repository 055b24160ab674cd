"""Compares the estimated memory with that of training steps; also the savings of switches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.large  # one process per measurement


@pytest.fixture(scope="module")
def measure():
    """A function (stage, side, batch, *overrides) -> {"taken": bytes, "estimated": bytes}."""
    script, done = Path(__file__).parent / "memory_run.py", {}
    # TensorFlow counts its allocations only with oneDNN, which is off without AVX-512.
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"}

    def measure(*arguments):
        if arguments not in done:
            command = [sys.executable, script, *arguments]
            run = subprocess.run(
                [*map(str, command)], env=environment, capture_output=True, text=True
            )
            assert run.returncode == 0, run.stderr[-3000:]
            done[arguments] = json.loads(run.stdout)
        return done[arguments]

    return measure


REMATERIALIZE, QUERY_BLOCK = "training.rematerialize=true", "training.query_block=128"
PARTS, HALF = "training.gradient_accumulation_steps=2", "training.precision=mixed_bfloat16"
GAN = "losses.adversarial=0.1", "discriminator.r1_every=1"


@pytest.mark.parametrize(
    ("stage", "side", "batch", "overrides"),
    [
        ("vit_vqgan", 256, 4, ()),
        ("vit_vqgan", 256, 4, (REMATERIALIZE,)),
        ("vit_vqgan", 256, 4, (QUERY_BLOCK,)),
        ("vit_vqgan", 256, 4, (REMATERIALIZE, QUERY_BLOCK)),
        ("vit_vqgan", 256, 4, (HALF, QUERY_BLOCK)),
        ("vit_vqgan", 64, 128, (REMATERIALIZE,)),  # with few tokens, the MLP's share is larger
        ("vit_vqgan", 64, 4, GAN),
        ("vit_vqgan", 256, 4, ("model.refinement_channels=32",)),
        ("vim", 256, 4, ()),
        ("vim", 256, 4, (REMATERIALIZE,)),
        ("vim", 256, 4, (REMATERIALIZE, QUERY_BLOCK)),
        ("vim", 256, 4, (HALF,)),
        ("vim", 256, 4, (PARTS,)),
    ],
)
def test_the_estimate_is_what_steps_take(measure, stage, side, batch, overrides):
    found = measure(stage, side, batch, *overrides)
    assert found["estimated"] == pytest.approx(found["taken"], rel=0.15)


@pytest.mark.parametrize(
    ("overrides", "share"), [((REMATERIALIZE,), 0.5), ((QUERY_BLOCK,), 0.6), ((PARTS,), 0.7)]
)
def test_the_switches_save_memory(measure, overrides, share):
    plain, saved = (measure("vit_vqgan", 256, 4, *more)["taken"] for more in ((), overrides))
    assert saved < share * plain
