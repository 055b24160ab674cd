"""Checks that the classes of `config` run on their values; each raises a UserError of one line.

The largest sizes are far above those of every published model. They exist because memory for a
size in a file is allocated before other code can see that the size is wrong.
"""

import numbers
from collections.abc import Collection, Sequence
from typing import Protocol

from vim_tf.errors import UserError
from vim_tf.messages import shorten

MOST_TOKENS = 65_536  # an image; ViT-VQGAN has 1,024, and attention takes their square
LONGEST_SIDE = 16_384  # pixels; 64 times the paper's
LARGEST_PATCH = 1_024  # pixels; vision transformers have 4 to 32
MOST_CODES = 2**24  # MAGVIT-v2 has 262,144
MOST_NEAREST = 1_024  # codes that may replace one; of 8,192 codes that is an eighth
MOST_CLASSES = 2**20  # ImageNet-21k has 21,841
MOST_BLOCKS = 1_024  # Parti 20B has 64 in its decoder, DeepNet 1,000
MOST_HEADS = 1_024  # GPT-3 has 96
WIDEST = 65_536  # dim, mlp_dim, channels; Parti 20B has 4,096 and 16,384, GPT-3 12,288 and 49,152
MOST_BASE_CHANNELS = 2**20  # channels times resolution; StyleGAN2 has 32,768
MOST_STAGES = 14  # each but the first halves the size: 13 halvings make 8,192 pixels one
LARGEST_BATCH = 2**20  # images; VIM has 1,024, Parti 8,192
MOST_STEPS = 2**31 - 1  # orbit counts them in 32 bits; the paper's longest run has 500,000
MOST_PASSES = 1_000  # each adds the whole data set to the token cache once more
MOST_CPU_REPLICAS = 64  # each is a TensorFlow device with its own threads


class _Placed(Protocol):
    """The keys of a section that says on which devices it runs."""

    @property
    def strategy(self) -> str: ...

    @property
    def cpu_replicas(self) -> int: ...


class _Training(Protocol):
    """The keys of `TrainingConfig` that are checked here; `sections` imports this module."""

    @property
    def steps(self) -> int: ...

    @property
    def gradient_accumulation_steps(self) -> int: ...


class _Data(Protocol):
    """The key of `DataConfig` that is checked here."""

    @property
    def batch_size(self) -> int: ...


class _Experiment(Protocol):
    """The sections of an experiment that are checked here."""

    @property
    def data(self) -> _Data: ...

    @property
    def training(self) -> _Training: ...


def require(condition: object, message: str) -> None:
    """Raises UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def positive(section: str, **values: float) -> None:
    """Each value is above 0; `section` is its place in a config file, "" for the top."""
    for name, value in values.items():
        require(value > 0, f"{_place(section)}{name} is {value}; it must be greater than 0")


def sizes(section: str, **values: tuple[int, int]) -> None:
    """Each value, given as (value, limit), is above 0 and at most its limit."""
    for name, (value, limit) in values.items():
        positive(section, **{name: value})
        require(value <= limit, f"{_place(section)}{name} is {value}; at most {limit:,} is allowed")


def sizes_or_zero(section: str, **values: tuple[int, int]) -> None:
    """Each value, given as (value, limit), is from 0 to its limit."""
    for name, (value, limit) in values.items():
        not_negative(section, **{name: value})
        if value:
            sizes(section, **{name: (value, limit)})


def _place(section: str) -> str:
    return f"{section}." if section else ""


def integer(**values: object) -> None:
    """Each value is an integer, of Python or NumPy, and no bool."""
    for name, value in values.items():
        good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        require(good, f"{name} is {shorten(repr(value))}; it must be an integer")


def at_least_one(**values: int | None) -> None:
    """Each value is None or an integer of 1 or more."""
    for name, value in values.items():
        if value is not None:
            integer(**{name: value})
            require(value >= 1, f"{name} is {value}; it must be 1 or more")


def one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """The value is one of the allowed ones."""
    require(value in allowed, f"{name} is {value}; allowed are {', '.join(allowed)}")


def choose(name: str, values: Sequence[str], allowed: Sequence[str]) -> list[str]:
    """Returns the values without duplicates, in the order of `allowed`.

    Raises:
        UserError: a value is not allowed, or there is no value.
    """
    for value in values:
        require(value in allowed, f"{name} has {value}; allowed are {', '.join(allowed)}")
    require(values, f"{name} is empty; name some of {', '.join(allowed)}")
    return [value for value in allowed if value in values]


def rejection(reject: object, acceptance: float | None) -> None:
    """`reject`, a classifier, and `acceptance`, a share, are given together and in range."""
    require(
        acceptance is None or 0 < acceptance <= 1,
        f"acceptance is {acceptance}; it must be above 0 and at most 1",
    )
    require(
        (reject is None) == (acceptance is None),
        f"reject is {reject} and acceptance is {acceptance}; give both or neither: a classifier, "
        "and the share of samples that it keeps, such as 0.5",
    )


def not_negative(section: str, **values: float) -> None:
    """Each value is 0 or greater."""
    for name, value in values.items():
        require(value >= 0, f"{section}.{name} is {value}; it must be 0 or greater")


def tokens(rows: int, columns: int, place: str) -> None:
    """A grid of tokens has at most `MOST_TOKENS`; `place` names the keys that set its size."""
    require(
        rows * columns <= MOST_TOKENS,
        f"{place}: an image has {rows * columns:,} tokens; at most {MOST_TOKENS:,} are allowed",
    )


def fraction(section: str, **values: float) -> None:
    """Each value is from 0 to 1."""
    for name, value in values.items():
        require(0 <= value <= 1, f"{section}.{name} is {value}; it must be from 0 to 1")


def cpu_replicas(section: str, settings: _Placed) -> None:
    """`settings.cpu_replicas` is positive, and 1 unless `settings.strategy` is mirrored."""
    replicas, place = settings.cpu_replicas, _place(section)
    sizes(section, cpu_replicas=(replicas, MOST_CPU_REPLICAS))
    require(
        replicas == 1 or settings.strategy == "mirrored",
        f"{place}cpu_replicas is {replicas} and {place}strategy is {settings.strategy}; only "
        "strategy mirrored allows more than 1",
    )


def batch_divides(experiment: _Experiment, replicas: int) -> None:
    """A batch can be divided among the replicas, and each share into the parts of a step."""
    batch_size, parts = experiment.data.batch_size, experiment.training.gradient_accumulation_steps
    parted = f" and training.gradient_accumulation_steps is {parts}" if parts > 1 else ""
    require(
        batch_size % (replicas * parts) == 0,
        f"data.batch_size is {batch_size}, replicas: {replicas}{parted}; the batch size must "
        f"be a multiple of {replicas * parts}",
    )


def no_longer_than(training: _Training, **optimizers: object) -> None:
    """No warm-up or plateau of an `OptimizerConfig` is longer than the run."""
    for section, optimizer in optimizers.items():
        for name in ("warmup_steps", "decay_start"):
            value = getattr(optimizer, name)
            require(
                value <= training.steps,
                f"{section}.{name} is {value} and training.steps is {training.steps}; "
                f"set {section}.{name} to {training.steps} or less",
            )
