import unicodedata

import numpy as np
import pytest

from vim_tf.data import class_names
from vim_tf.errors import UserError


def test_natural_order():
    names = ["10", "2", "1", "0", "11", "a10", "a2b10", "a2b9", "B", "a", ".", "02", "é2", "é10"]
    assert class_names.natural_order(names) == (
        *(".", "0", "1", "02", "2", "10", "11", "B", "a", "a2b9", "a2b10", "a10", "é2", "é10"),
    )
    digits = ["9" * 250, "1" + "0" * 250, "8" * 250]
    assert class_names.natural_order(digits) == ("8" * 250, "9" * 250, "1" + "0" * 250)


def test_names_without_digits_keep_the_order_of_their_characters():
    names = ["zebra", "Ant", "ant", " x", "-", "~", "ö", "日本", ".", "a b", "a-b", "ab"]
    assert class_names.natural_order(names) == tuple(sorted(names))


def test_normal_forms_are_one_name():
    composed = "café Å 각"
    assert class_names.clean(unicodedata.normalize("NFD", composed)) == composed
    assert class_names.clean(composed) == composed


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("two\nlines\t\x7f", r"two\nlines\t\x7f"),
        ("\x1b[31mred\x9b", r"\x1b[31mred\x9b"),
        ("caf\udce9", r"caf\xe9"),
        ("a\u2028b", r"a\u2028b"),
        (" outer, [1] ", " outer, [1] "),
        ("👩‍🔬 क्‍ष", "👩‍🔬 क्‍ष"),  # joiners belong to the text
    ],
)
def test_names_that_are_safe_to_print(name, shown):
    assert class_names.clean(name) == shown


def test_every_label_is_a_class_with_images():
    for labels in ([0, 1, 2], [1, 2, 3], [3, 1], [0, 2, 3, 3], [1], [0]):
        found = class_names.number_labels(labels, "x")
        assert found.tolist() == sorted(set(labels))


def test_lines_about_numbers():
    def describe(*labels):
        return class_names.describe_numbers(np.array(labels), "x")

    assert describe(0, 1, 2) is None
    assert describe(0) is None
    assert describe(1, 2, 3) == "data: labels of x count from 1; label 1 is class 0, and so on"
    assert describe(0, 2, 3) == (
        "data: 3 different labels of x, from 0 to 3, are classes 0 to 2 in their order; numbers "
        "without images are no classes"
    )


@pytest.mark.parametrize("labels", [[0, 999_999], [1, 2, 3, 255], [7], [2**62, 0]])
def test_sparse_labels_are_refused(labels):
    with pytest.raises(UserError, match="x: its labels are .* number the classes again, from 0"):
        class_names.number_labels(labels, "x")


def test_negative_labels_are_refused():
    with pytest.raises(UserError, match="x: the label -1 is negative"):
        class_names.number_labels([0, -1, 2], "x")


def test_thin_classes_are_named():
    names = tuple("abcdefgh")
    train, validation = np.repeat(np.arange(8), 3), np.arange(8)
    assert class_names.describe_thin(names, train, validation) is None
    assert class_names.describe_thin(names, np.arange(8), np.array([7])) == (
        "data: of 8 classes, 8 have a single training image (a, b, c, d, e and 3 more), "
        "7 have no validation image (a, b, c, d, e and 2 more)"
    )
    line = class_names.describe_thin(("a", "b\x1b"), np.array([0, 0]), np.array([0, 1]))
    assert line == "data: of 2 classes, 1 has no training image (b\\x1b)"
