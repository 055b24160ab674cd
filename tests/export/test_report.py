import json
import math

import numpy as np
import pytest

from vim_tf.export.report import (
    REPORT_FILE,
    TABLE_FILE,
    Measurement,
    at_least,
    at_most,
    compare_images,
    compare_tokens,
    from_row,
    to_row,
    write_report,
)


def test_images_are_compared_in_the_unit_range():
    a = np.zeros((2, 4, 4, 3), "float32")
    b = a.copy()
    b[0, 0, 0, 0] = 0.5  # in [-1,1]: a quarter of it in [0,1]
    values = compare_images(a, b)
    assert values["max_error"] == 0.25
    assert values["psnr"] == pytest.approx(10 * math.log10(1 / (0.25**2 / b.size)))
    assert compare_images(a, a) == {"max_error": 0, "psnr": math.inf}
    b[0, 0, 0, 0] = np.nan
    assert math.isnan(compare_images(a, b)["psnr"])


def test_tokens_are_counted():
    assert compare_tokens([[1, 2], [3, 4]], [[1, 2], [3, 5]]) == {"tokens_equal": 0.75}


@pytest.mark.parametrize(
    ("value", "limit", "holds"),
    [
        (35.0, at_least(35), True),
        (34.9, at_least(35), False),
        (math.inf, at_least(35), True),
        (math.nan, at_least(35), False),
        (1e-4, at_most(1e-4), True),
        (2e-4, at_most(1e-4), False),
        (math.nan, at_most(1e-4), False),
    ],
)
def test_a_limit_that_does_not_hold_is_named(value, limit, holds):
    row = Measurement("tflite", "decoder.tflite", 1, 1.0, {"psnr": value}, {"psnr": limit})
    line = f"tflite decoder.tflite: psnr is {value:g}; it must be {limit}"
    assert row.failures == ([] if holds else [line])


def test_the_report_is_json_and_a_table(tmp_path):
    good = Measurement("saved_model", "decode", 2**20, 1.5, {"psnr": math.inf}, {})
    bad = Measurement("tfjs", "x", 0, 2.0, {"max_error": 0.5}, {"max_error": at_most(0.1)})
    write_report(tmp_path, {"run": "runs/x"}, [good, bad])

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    report = json.loads((tmp_path / REPORT_FILE).read_text(), parse_constant=refuse)
    assert report["run"] == "runs/x"
    assert not report["passed"]
    assert [row["passed"] for row in report["measurements"]] == [True, False]
    assert report["measurements"][0]["values"] == {"psnr": "inf"}
    assert report["measurements"][1]["limits"] == {"max_error": "<= 0.1"}
    lines = (tmp_path / TABLE_FILE).read_text().splitlines()
    assert lines[2] == "| saved_model | decode | 1.00 MiB |  | inf dB |  | 1.5 ms | ok |"
    assert lines[3].endswith("| 2 ms | FAILED |")


def test_a_row_of_json_is_the_same_measurement():
    values = {"psnr": math.inf, "max_error": 0.25, "custom_operations": 0}
    limits = {"psnr": at_least(35), "max_error": at_most(0.5)}
    measurement = Measurement("tflite", "decoder", 7, 0.5, values, limits)
    text = json.dumps(to_row(measurement), allow_nan=False)
    assert from_row(json.loads(text)) == measurement
