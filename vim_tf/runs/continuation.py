"""The folders of a training that goes on from the weights of another run."""

from vim_tf.annotations import StrPath
from vim_tf.config.experiments import TrainingExperiment
from vim_tf.errors import UserError
from vim_tf.runs.run import Run


def open_runs(
    experiment: TrainingExperiment, workdir: StrPath, continue_as: StrPath | None
) -> tuple[Run, Run | None]:
    """Returns (the run to train, the run that it continues or None).

    Args:
        experiment: the config with which the training goes on.
        workdir: the folder of a run.
        continue_as: another folder, in which the run in `workdir` goes on; None trains in
            `workdir`.

    Raises:
        UserError: there is no run to continue, or it is of another experiment.
    """
    run = Run(workdir)
    if continue_as is None:
        return run, None
    old = run.load_experiment()
    if old.experiment != experiment.experiment:
        raise UserError(
            f"{run.path} is a run of experiment {old.experiment}, and the config is of experiment "
            f"{experiment.experiment}; continue_as needs the same experiment"
        )
    new = Run(continue_as)
    if new.path.resolve() == run.path.resolve():
        raise UserError(f"continue_as is {new.path}, the run itself; give a new folder")
    if not new.has_checkpoint() and not run.has_checkpoint():
        raise UserError(
            f"{run.path} has no checkpoint to go on from; train it first, or leave continue_as out"
        )
    return new, run
