"""Trains tokenizers with and without each loss, and shows what each loss buys.

    python benchmarks/loss_study.py --config configs/styles/vit_vqgan_32.yaml \
        --decoder-config configs/styles/decoder_32.yaml --workdir runs/loss_study_32 \
        --base-steps 4688 --arm-steps 1406 --seeds 0 1 2 --arms l2 perceptual all_five l2@2 \
        --judges runs/judges/efficientnet_lite0.keras runs/judges/resnet50_thin.keras

For each seed, a base is trained with the squared error alone. Each arm goes on from such a base:
`--arm-steps` more steps with its losses. `NAME@FACTOR` has so many times as many steps. The
learning rate is constant in a base and falls to its end in an arm. Losses, weights and the new head
are those of the config. Arms with logit-laplace need another output of the decoder, so their bases
have it, and its loss, from the start; the same is true of the new head.

Trained runs and finished evaluations are not made again, so a stopped study goes on. All commands
are written to commands.txt. The result is a table (also in table.md), curves.png and sheet.png.
"""

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import loss_study_report

from vim_tf import command_line
from vim_tf.config.loader import load_config
from vim_tf.errors import UserError
from vim_tf.runs.run import Run, find_tokenizer_config
from vim_tf.stages.registry import kind_of

ALONE = ["losses.perceptual=0", "losses.adversarial=0"]
PLAIN = ["model.output=rgb", "model.overlapping_patches=false", "model.refinement_channels=0"]
PLAIN += ["losses.logit_laplace=0"]
# On drawings the paper's weight of 0.1 leads all other terms: docs/training.md.
LAPLACE = ["model.output=logit_laplace", "losses.logit_laplace=0.01"]
BASES = {
    "plain": PLAIN,
    "logit_laplace": [*PLAIN, *LAPLACE],
    "head": LAPLACE,
}
# Arm -> (its base, the terms of the config that it leaves out).
ARMS = {
    "l2": ("plain", ALONE),
    "logit_laplace": ("logit_laplace", ALONE),
    "perceptual": ("plain", ["losses.adversarial=0"]),
    "adversarial": ("plain", ["losses.perceptual=0"]),
    "all_five": ("logit_laplace", []),
    "l2_head": ("head", ALONE),
    "all_five_head": ("head", []),
    "decoder": ("head", None),  # it has another config
}


@dataclass
class Arm:
    """An arm of one seed.

    Attributes:
        name: as given, for example "l2@2".
        seed: of the base and of the arm.
        path: folder of its run.
        operations: since the fork, floating-point operations.
        figures: those of each evaluation, {name: float}.
    """

    name: str
    seed: int
    path: Path
    operations: float
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def kind(self):
        """The name without its factor."""
        return self.name.partition("@")[0]


def main(arguments=None):
    """Trains, evaluates and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="of experiment vit_vqgan")
    parser.add_argument("--decoder-config", help="of experiment decoder, for the arm decoder")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--base-steps", type=int, required=True)
    parser.add_argument("--arm-steps", type=int, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), metavar="NAME[@FACTOR]")
    parser.add_argument("--judges", nargs="+", default=[], metavar="KERAS", help="feature networks")
    parser.add_argument("--metrics", default="kid,fd64", help="of the judges")
    parser.add_argument("--lpips", help="weights of a pseudo-LPIPS")
    parser.add_argument("--images", nargs="+", default=[], help="data.key=value: images to judge")
    parser.add_argument("--set", nargs="+", default=[], help="overrides of all configs")
    given = parser.parse_args(arguments)
    command_line.check_positive(vars(given), "base_steps", "arm_steps")
    for name in given.arms:
        parse_arm(name, given)
    given.workdir.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in given.seeds:
        for name in given.arms:
            arm = train_arm(given, name, seed)
            arm.figures = evaluate(given, arm)
            found.append(arm)
            loss_study_report.write(found, given.workdir, [Path(j).stem for j in given.judges])
        if seed == given.seeds[0]:
            loss_study_report.draw_sheet(found, given.workdir / "sheet.png")


def parse_arm(name, given):
    """Returns (its base, the overrides or None for a decoder, its number of steps)."""
    kind, _, factor = name.partition("@")
    try:
        factor = float(factor or 1)
    except ValueError:
        factor = 0
    if kind not in ARMS or factor <= 0:
        raise UserError(
            f"--arms has {name}; allowed are {', '.join(ARMS)}, each with @FACTOR or not"
        )
    if kind == "decoder" and not given.decoder_config:
        raise UserError("--arms has decoder, and --decoder-config is not given; give it")
    return *ARMS[kind], round(given.arm_steps * factor)


def train_arm(given, name, seed):
    """Trains an arm and its base unless they are trained; returns the `Arm`."""
    base, settings, steps = parse_arm(name, given)
    folder = given.workdir / f"seed_{seed}"
    base_folder, path = folder / f"base_{base}", folder / name
    schedule = ["optimizer.schedule=cosine", f"optimizer.decay_start={given.base_steps}"]
    common = [*given.set, f"seed={seed}", *schedule]
    of_base = [*BASES[base], *ALONE, f"training.steps={given.base_steps}"]
    run_training(given, given.config, base_folder, [*common, *of_base], given.base_steps)
    if settings is None:
        config, total = given.decoder_config, steps
        changed = [f"tokenizer.run={base_folder}", f"training.steps={steps}", f"seed={seed}"]
        changed = [*given.set, *changed]
        run_training(given, config, path, changed, total)
    else:
        config, total = given.config, given.base_steps + steps
        changed = [*common, *BASES[base], *settings, f"training.steps={total}"]
        changed += [f"discriminator.start={given.base_steps}"]
        run_training(given, config, base_folder, changed, total, continue_as=path)
    experiment = load_config([config], changed)
    count_step = kind_of(experiment).count_step
    _, operations = count_step(experiment, 1, find_tokenizer_config(experiment))
    images = steps * experiment.data.batch_size
    return Arm(name, seed, path, images * sum(operations.values()))


def run_training(given, config, workdir, settings, steps, continue_as=None):
    """Runs `vim_tf.train` unless the run has all its steps."""
    run = Run(continue_as or workdir)
    done = [record["step"] for record in run.read_metrics()] if run.preset_dir.exists() else []
    if done and max(done) >= steps:
        return
    command = ["vim_tf.train", "--config", config, "--workdir", str(workdir)]
    command += ["--continue-as", str(continue_as)] if continue_as else []
    run_command(given, [*command, "--set", *settings])


def evaluate(given, arm):
    """Returns the figures of an arm, measured unless they are there."""
    figures = {}
    for judge in given.judges or [None]:
        stem = Path(judge).stem if judge else "pixels"
        out = given.workdir / "evaluations" / f"seed_{arm.seed}_{arm.name}_{stem}.json"
        out.parent.mkdir(exist_ok=True)
        if not out.exists():
            command = [
                "vim_tf.evaluate",
                "reconstruction",
                "--run",
                str(arm.path),
                "--out",
                str(out),
            ]
            if judge:
                command += ["--extractor", judge, "--metrics", given.metrics]
            if given.lpips and judge == given.judges[0]:
                command += ["--lpips", given.lpips]
            if given.images:
                command += ["--other-images", "--set", *given.images]
            run_command(given, command)
        figures |= json.loads(out.read_text())["figures"]
    return figures


def run_command(given, words):
    """Runs `python -m` of a command; its output is shown."""
    with (given.workdir / "commands.txt").open("a") as file:
        file.write(f"python -m {shlex.join(words)}\n")
    done = subprocess.run([sys.executable, "-m", *words], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise UserError(
            f"{words[0]} ended with exit code {done.returncode}; its last line says why"
        )


if __name__ == "__main__":
    command_line.run(main)
