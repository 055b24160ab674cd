"""What an export measures of each of its files, against Keras, and whether that is good enough."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vim_tf.files import write_atomically

REPORT_FILE = "export_report.json"
TABLE_FILE = "export_report.md"


@dataclass(frozen=True)
class Limit:
    """The bound a measured value has to keep: at least, or at most, `value`."""

    at_least: bool
    value: float

    def holds(self, measured: float) -> bool:
        """Whether a value keeps the bound; NaN never does."""
        return measured >= self.value if self.at_least else measured <= self.value

    def __str__(self):
        return f"{'>=' if self.at_least else '<='} {self.value:g}"


def at_least(value: float) -> Limit:
    """A lower bound."""
    return Limit(True, value)


def at_most(value: float) -> Limit:
    """An upper bound."""
    return Limit(False, value)


@dataclass(frozen=True)
class Measurement:
    """One exported thing, compared with Keras on real images.

    Attributes:
        format: "saved_model", "tflite" or "tfjs".
        name: the signature or the file.
        size: bytes on disk.
        milliseconds: of one call, an image.
        values: what was measured, by name: "max_error" (pixels in [0,1]), "psnr" (dB),
            "tokens_equal" (share from 0 to 1), "nats" (a token, more than Keras), and whatever else
            there is a number for.
        limits: for some of the values, the `Limit` it has to keep.
    """

    format: str
    name: str
    size: int
    milliseconds: float
    values: dict = field(default_factory=dict)
    limits: dict = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """One line for each limit that does not hold."""
        return [
            f"{self.format} {self.name}: {key} is {self.values[key]:.6g}; it must be {limit}"
            for key, limit in self.limits.items()
            if not limit.holds(self.values[key])
        ]


def to_row(measurement: Measurement) -> dict[str, Any]:
    """Returns a measurement as a dict that JSON can hold, for `from_row`."""
    values = {key: _json_number(value) for key, value in measurement.values.items()}
    return asdict(measurement) | {"values": values}


def from_row(row: Mapping[str, Any]) -> Measurement:
    """Returns the measurement of which `to_row` made a row."""
    values = {key: float(x) if isinstance(x, str) else x for key, x in row["values"].items()}
    limits = {key: Limit(**limit) for key, limit in row["limits"].items()}
    return Measurement(**{**row, "values": values, "limits": limits})


def compare_images(expected: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    """Compares images of any one range of values `[-1,1]`, both [n,H,W,3] float32.

    Returns:
        dict of "max_error" and "psnr" as in `Measurement`; equal images have a PSNR of infinity.
    """
    difference = (np.asarray(actual, "float64") - np.asarray(expected, "float64")) / 2
    error = float(np.mean(np.square(difference)))
    psnr = math.inf if error == 0 else -10 * math.log10(error) if error > 0 else math.nan
    return {"max_error": float(np.max(np.abs(difference))), "psnr": psnr}


def compare_tokens(expected: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    """Returns {"tokens_equal": share of equal tokens} of two [n,N] int32 arrays."""
    return {"tokens_equal": float(np.mean(np.asarray(expected) == np.asarray(actual)))}


def write_report(folder: Path, about: dict[str, Any], measurements: Sequence[Measurement]) -> None:
    """Writes the report as JSON and as a Markdown table.

    Args:
        folder: an existing folder.
        about: a dict that JSON can hold: run, hashes, versions.
        measurements: a list of `Measurement`.
    """
    rows = [
        to_row(row)
        | {"limits": {key: str(limit) for key, limit in row.limits.items()}}
        | {"passed": not row.failures}
        for row in measurements
    ]
    report = {**about, "passed": all(row["passed"] for row in rows), "measurements": rows}
    write_atomically(folder / REPORT_FILE, json.dumps(report, indent=1) + "\n")
    write_atomically(folder / TABLE_FILE, table(measurements) + "\n")


def _json_number(value):
    """JSON knows neither infinity nor NaN."""
    return value if math.isfinite(value) else str(value)


def table(measurements: Sequence[Measurement]) -> str:
    """Returns a Markdown table of measurements, a line each."""
    lines = [
        "| format | what | size | largest error | PSNR | tokens equal | time per image | |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in measurements:
        cells = [
            row.format,
            row.name,
            f"{row.size / 2**20:.2f} MiB",
            _cell(row.values.get("max_error"), "{:.1e}"),
            _cell(row.values.get("psnr"), "{:.1f} dB"),
            _cell(row.values.get("tokens_equal"), "{:.2%}"),
            f"{row.milliseconds:.3g} ms",
            "FAILED" if row.failures else "ok",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value, form):
    return "" if value is None else form.format(value)
