import pytest

from vim_tf.messages import shorten, show


@pytest.mark.parametrize("text", ["", "data.path", "käse 猫 🙂", "x" * 200, 'a "b" \\c'])
def test_text_that_can_be_printed_stays_as_it_is(text):
    assert shorten(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        ("\u202egnp.exe", r"\u202egnp.exe"),  # a terminal shows exe.png
        ("\u2028\ufeff", r"\u2028\ufeff"),
        ("\udcff", r"\udcff"),  # in a file name that is no UTF-8
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_characters_that_a_terminal_obeys_are_escaped(text, shown):
    assert shorten(text) == shown
    assert shorten(text).isprintable()


def test_long_text_is_cut_and_its_length_given(quick):
    assert shorten("ab" * 14_000_000) == "ab" * 100 + "... (28,000,000 characters)"
    shown = quick(lambda: shorten("\x1b" * 28_000_000), 25)  # only shown text is escaped
    assert shown.endswith("... (28,000,000 characters)")
    assert shorten("abc", 2) == "ab... (3 characters)"


def test_escapes_do_not_make_a_message_long():
    shown = shorten("\x1b" * 200)
    assert shown == r"\x1b" * 50 + "... (200 characters)"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (1e-5, "1e-05"),
        ("a", '"a"'),
        ([1, "b"], '[1, "b"]'),
        ("\x1b\x9b", r'"\u001b\x9b"'),
        ("ä", '"ä"'),
    ],
)
def test_values_are_shown_as_json(value, shown):
    assert show(value) == shown


def test_a_value_that_json_cannot_write_is_named_by_its_type():
    deep = []
    for _ in range(5_000):
        deep = [deep]
    assert show(deep) == "a value of type list, too long to show"
    assert show(10**5_000) == "a value of type int, too long to show"
    assert show({1}) == '"{1}"'
