"""The trainings that vim_tf knows: one line each. Imports no TensorFlow."""

import importlib
from dataclasses import dataclass
from typing import Any

from vim_tf.config.experiments import (
    EXPERIMENTS,
    ClassifierExperiment,
    DecoderExperiment,
    Experiment,
    TrainingExperiment,
    VIMExperiment,
    ViTVQGANExperiment,
)
from vim_tf.costs import step_time
from vim_tf.errors import UserError


@dataclass(frozen=True)
class Kind:
    """A kind of training.

    Attributes:
        experiment: class of its config; `experiment.experiment` is its name.
        stage: its subclass of `Stage`, as "module:class"; imported when it is needed.
        count_step: function that counts a step's memory and operations, see `step_time.predict`;
            None where it is too small to matter.
        views: names of the drawings that `vim_tf.views` can make of a run.
    """

    experiment: type
    stage: str
    count_step: step_time.CountStep | None = None
    views: tuple[str, ...] = ()


_KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Makes a `Kind` known to configs, training, descriptions and dry runs."""
    name = kind.experiment.experiment
    if EXPERIMENTS.get(name, kind.experiment) is not kind.experiment:
        raise ValueError(f"experiment {name} is another class already")
    EXPERIMENTS[name] = kind.experiment
    _KINDS[name] = kind


def kind_of(experiment: Experiment | str) -> Kind:
    """Returns the `Kind` of an experiment, given as its config or by name.

    Raises:
        UserError: it is not a training; a linear probe is none.
    """
    name: Any = getattr(experiment, "experiment", experiment)
    if name not in _KINDS:
        raise UserError(f"experiment {name} is not a training; trainings are {', '.join(_KINDS)}")
    return _KINDS[name]


def stage_class(experiment: TrainingExperiment) -> type[Any]:
    """Returns the subclass of `Stage` of an experiment; imports TensorFlow.

    `Stage` is not in the annotation: its module imports others that import this one.
    """
    module, _, name = kind_of(experiment).stage.partition(":")
    return getattr(importlib.import_module(module), name)


register(
    Kind(
        ViTVQGANExperiment,
        "vim_tf.stages.vit_vqgan_stage:ViTVQGANStage",
        step_time.count_vit_vqgan_step,
        ("codes", "attention"),
    )
)
register(
    Kind(
        DecoderExperiment,
        "vim_tf.stages.decoder_stage:DecoderStage",
        step_time.count_decoder_step,
        ("codes", "attention"),
    )
)
register(
    Kind(
        VIMExperiment,
        "vim_tf.stages.vim_stage:VIMStage",
        step_time.count_vim_step,
        ("codes", "attention", "neighbours"),
    )
)
register(Kind(ClassifierExperiment, "vim_tf.stages.classifier_stage:ClassifierStage"))
