"""Checks that the classes of `config` make of their values; each raises UserError, one line."""

from vim_tf.errors import UserError


def require(condition, message):
    """Raises UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def positive(section, **values):
    """Each value is above 0; `section` is its place in a config file, "" for the top."""
    for name, value in values.items():
        require(value > 0, f"{_place(section)}{name} is {value}; it must be greater than 0")


def _place(section):
    return f"{section}." if section else ""


def not_negative(section, **values):
    """Each value is 0 or greater."""
    for name, value in values.items():
        require(value >= 0, f"{section}.{name} is {value}; it must be 0 or greater")


def fraction(section, **values):
    """Each value is from 0 to 1."""
    for name, value in values.items():
        require(0 <= value <= 1, f"{section}.{name} is {value}; it must be from 0 to 1")


def cpu_replicas(section, settings):
    """`settings.cpu_replicas` is positive, and 1 unless `settings.strategy` is mirrored."""
    replicas, place = settings.cpu_replicas, _place(section)
    positive(section, cpu_replicas=replicas)
    require(
        replicas == 1 or settings.strategy == "mirrored",
        f"{place}cpu_replicas is {replicas} and {place}strategy is {settings.strategy}; only "
        "mirrored has more than one in a process",
    )


def batch_divides(experiment, replicas):
    """A training's batch divides among replicas, and there into parts."""
    batch_size, parts = experiment.data.batch_size, experiment.training.gradient_accumulation_steps
    parted = f" and training.gradient_accumulation_steps is {parts}" if parts > 1 else ""
    require(
        batch_size % (replicas * parts) == 0,
        f"data.batch_size is {batch_size}, replicas: {replicas}{parted}; the batch size must "
        f"be a multiple of {replicas * parts}",
    )


def no_longer_than(training, **optimizers):
    """No warm-up or plateau of an `OptimizerConfig` is longer than the run."""
    for section, optimizer in optimizers.items():
        for name in ("warmup_steps", "decay_start"):
            value = getattr(optimizer, name)
            require(
                value <= training.steps,
                f"{section}.{name} is {value} and training.steps is {training.steps}; "
                f"set {section}.{name} to {training.steps} or less",
            )
