"""Names and numbers of classes, as people write them."""

import csv
import io
import random

import pytest

from vim_tf.errors import UserError
from vim_tf.generation.labels import label_number, quote_label, split_labels


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("red", ["red"]),
        ("red,0", ["red", "0"]),
        (" 1 , blue sky ", ["1", "blue sky"]),
        ('"dogs, small",cats', ["dogs, small", "cats"]),
        (' "dogs, small" , cats', ["dogs, small", "cats"]),
        ('" cats "', [" cats "]),
        ('"the ""best"""', ['the "best"']),
        ('5" nail, 6" nail', ['5" nail', '6" nail']),
        ('""', [""]),
        ("a,,b,", ["a", "", "b", ""]),
        ("", [""]),
        ("кот, 猫, قط", ["кот", "猫", "قط"]),
    ],
)
def test_labels_are_split_as_in_a_csv_file(text, labels):
    assert split_labels(text) == labels


@pytest.mark.parametrize("text", ['"cats', 'a, "b, c', '"a"b', '  "a" "b"', '"a""'])
def test_a_quote_that_is_not_closed_is_refused(text):
    with pytest.raises(UserError, match="is not closed before a comma; write a name with a comma"):
        split_labels(text)


def test_every_name_can_be_given_and_pythons_csv_reads_the_same():
    rng = random.Random(0)
    for _ in range(500):
        names = ["".join(rng.choices('ab ,"\n\t', k=rng.randrange(6))) for _ in range(3)]
        text = ",".join(map(quote_label, names))
        assert split_labels(text) == names
        line = io.StringIO(newline="")
        csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="").writerow(names)
        assert split_labels(line.getvalue()) == names


@pytest.mark.parametrize(
    ("label", "names", "number"),
    [
        ("dogs", ["cats", "dogs"], 1),
        ("1", ["cats", "dogs"], 1),
        (1, ["cats", "dogs"], 1),
        ("10", ["0", "1", "10"], 2),  # a name
        (2, ["0", "1", "10"], 2),  # a number
        ("1", ["0", "1", "10"], 1),
        ("0", ["1", "0"], 1),
        (0, ["1", "0"], 0),
        ("a, b", ["a", "a, b"], 1),
    ],
)
def test_text_is_a_name_first_and_an_integer_a_number(label, names, number):
    assert label_number(label, names) == number


@pytest.mark.parametrize(
    ("label", "names", "message"),
    [
        (
            "2",
            ["0", "1", "10"],
            "label 2 is no name of a class, and names of classes are numbers here: 0 0, 1 1, 2 10; "
            "give a name, or in Python an integer",
        ),
        ("2", ["cats", "7"], "label 2 is no name of a class, and names of classes are numbers he"),
        (3, ["0", "1", "10"], "label 3 is none of the model's classes: 0 0, 1 1, 2 10"),
        ("cat s", ["cats"], "label cat s is none of the model's classes: 0 cats"),
        (" cats", ["cats"], 'label " cats" is none of the model\'s classes: 0 cats'),
        ("", ["a, b"], 'label "" is none of the model\'s classes: 0 "a, b"'),
        ("٣", ["cats"] * 9, "label ٣ is none of the model's classes"),
        ("1_0", ["cats"] * 11, "label 1_0 is none of the model's classes"),
        ("9" * 5000, ["cats"], "label 999"),
        (True, ["cats", "dogs"], "label True is none of the model's classes"),
        (1.0, ["cats", "dogs"], "label 1.0 is none of the model's classes"),
        ("\x1b[2J", ["cats"], r"label \x1b[2J is none of the model's classes"),
        (0, [], "label 0 given, but this model was trained without labels"),
    ],
)
def test_what_is_no_class_is_refused(label, names, message):
    with pytest.raises(UserError) as caught:
        label_number(label, names)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 600
