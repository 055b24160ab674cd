import unicodedata

import numpy as np
import pytest
import tensorflow as tf

from vim_tf.data import hashing, held_out
from vim_tf.errors import UserError

NAMES = [f"{index % 7}/é{index}.png" for index in range(200)]
LABELS = np.arange(200) % 7
HASHES = hashing.hash_names(tf.constant(NAMES)).numpy()


def test_without_copies_and_thin_classes_the_hash_of_the_name_decides():
    train, validation = held_out.split(NAMES, LABELS, 0.2, "x")
    assert validation.tolist() == (HASHES < round(0.2 * 2**30)).tolist()
    assert (train == ~validation).all()
    other = [unicodedata.normalize("NFD", name) for name in NAMES]
    assert (held_out.split(other, LABELS, 0.2, "x")[1] == validation).all()


def test_the_only_image_of_a_class_goes_to_training():
    labels = LABELS.copy()
    lone = np.argsort(HASHES)[:3]  # held out otherwise
    labels[lone] = [7, 8, 9]
    train, validation = held_out.split(NAMES, labels, 0.2, "x")
    assert train[lone].all() and not validation[lone].any()
    usual = HASHES < round(0.2 * 2**30)
    usual[lone] = False
    assert (validation == usual).all()


def test_a_class_with_all_images_held_out_keeps_its_largest_hash_for_training():
    labels = np.zeros(200, int)
    smallest = np.argsort(HASHES)[:4]
    labels[smallest] = 1
    train, validation = held_out.split(NAMES, labels, 0.2, "x")
    assert validation[smallest].tolist() == [True, True, True, False]
    assert train[smallest[3]]


def test_an_image_is_held_out_although_the_smallest_hash_is_needed():
    names, labels = NAMES[:12], np.zeros(12, int)
    order = np.argsort(HASHES[:12])
    labels[order[0]] = 1
    train, validation = held_out.split(names, labels, 1e-9, "x")
    assert np.flatnonzero(validation).tolist() == [order[1]]
    assert train.sum() == 11


def test_copies_are_on_the_side_of_the_first_of_them():
    first = np.arange(200)
    first[100:150] = first[50]
    first[150:] = np.arange(0, 50)
    _, validation = held_out.split(NAMES, LABELS, 0.2, "x", first)
    assert (validation == validation[first]).all()
    usual = HASHES < round(0.2 * 2**30)
    assert (validation[:100] == usual[:100]).all()


def test_copies_of_the_only_image_of_a_class_go_to_training():
    labels, first = np.zeros(200, int), np.arange(200)
    lone, *copies = np.argsort(HASHES)[:5]
    first[copies] = lone
    labels[lone] = 1
    train, validation = held_out.split(NAMES, labels, 0.2, "x", first)
    assert train[[lone, *copies]].all() and not validation[[lone, *copies]].any()


def test_classes_of_one_image_each_are_trained_whole(capsys):
    train, validation = held_out.split(NAMES, np.arange(200), 0.2, "x")
    assert train.all()
    assert (validation == (HASHES < round(0.2 * 2**30))).all()
    assert "each of the 200 classes of x has a single image" in capsys.readouterr().err


def test_too_few_images():
    with pytest.raises(UserError, match=r"x has too few images \(1\)"):
        held_out.split(["a"], np.zeros(1, int), 0.5, "x")
    with pytest.raises(UserError, match="its 3 images are copies of one"):
        held_out.split(["a", "b", "c"], np.zeros(3, int), 0.5, "x", np.zeros(3, int))


def test_names_that_are_no_utf8():
    names = [f"caf\udce9{index}" for index in range(50)]
    _, validation = held_out.split(names, np.zeros(50, int), 0.2, "x")
    encoded = [b"caf\xe9%d" % index for index in range(50)]
    hashes = hashing.hash_names(tf.constant(encoded)).numpy()
    assert (validation == (hashes < round(0.2 * 2**30))).all()
