import io
import os
import zipfile

import numpy as np
import pytest

from vim_tf.errors import UserError
from vim_tf.evaluation.image_sources import open_images
from vim_tf.metrics.fid import FeatureStatistics
from vim_tf.npz_files import open_npz


def header(shape, dtype="|u1", fortran=False):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"shape": shape, "fortran_order": fortran, "descr": dtype}
    )
    return file.getvalue()


def write(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.npz"


def refused(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 2_000


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_numpy_reads_them(path, save):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 4)),
        "text": np.array("words"),
        "number": np.int64(7),
    }
    save(path, **arrays)
    with open_npz(path, path, "") as file:
        assert file.names == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(file.read(name), array)
            assert file.header(name) == (array.shape, array.dtype)
        assert file.read_text("text") == "words"
        assert file.read_text("none") is None and file.read_integer("none") is None
        assert file.read_integer("number") == 7
        for read, name in ((file.read_text, "a"), (file.read_integer, "text")):
            with pytest.raises(ValueError, match=f"{name} is no"):
                read(name)


@pytest.mark.parametrize(
    "shape", [(10**9, 10**4, 10**4, 3), (5, 8, 8, 3), (3, 8, 8, 3), (-4, -1, 64, 3)]
)
def test_a_shape_that_does_not_fit_is_refused_before_anything_is_read(path, shape):
    write(path, arr_0=header(shape) + bytes(4 * 8 * 8 * 3))
    refused(lambda: open_images(path, "--a"), "arr_0 has the shape .*which do not fit")


def test_statistics_that_lie_are_refused_before_anything_is_read(path):
    write(path, mu=header((10**9,), "<f8") + bytes(8), sigma=header((1, 1), "<f8") + bytes(8))
    refused(lambda: FeatureStatistics.load(path), "mu has the shape .*1000000000.* do not fit")
    write(path, mu=header((1,), "<f8") + bytes(8), sigma=header((10**5, 10**5), "<f8"))
    refused(lambda: FeatureStatistics.load(path), "sigma has the shape .* do not fit")


def test_a_bomb_is_not_unpacked(path):
    """The file has all its zeros, compressed by a factor of a thousand."""
    large = bytes(8 * 20_000 * 1_000)
    write(path, zipfile.ZIP_DEFLATED, mu=header((20_000_000,), "<f8") + large, sigma=b"")
    assert os.path.getsize(path) < 2 * 10**6
    refused(lambda: FeatureStatistics.load(path), "sigma|mu of the shape")
    write(path, zipfile.ZIP_DEFLATED, arr_0=header((1, 8000, 6000, 3)) + bytes(8000 * 6000 * 3))
    refused(lambda: open_images(path, "--a"), "images of 8,000 x 6,000 pixels; at most 16,7")


def test_pickles_are_never_read(path, tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    np.savez(path, arr_0=np.array([Attack()]), mu=np.array([Attack()]), sigma=np.eye(1))
    for call in (lambda: open_images(path, "--a"), lambda: FeatureStatistics.load(path)):
        refused(call, "holds neither numbers nor text, but object")
    path.write_bytes(np.array([Attack()]).dumps())
    refused(lambda: open_images(path, "--a"), "is no .npz that can be read")
    assert not (tmp_path / "written").exists()


def test_other_members_are_refused(path):
    with pytest.warns(UserWarning, match="Duplicate"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("arr_0.npy", header((1,)))
            archive.writestr("arr_0.npy", header((1,)))
    refused(lambda: open_images(path, "--a"), "several arrays of one name")
    write(path, arr_0=b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 9990 + b"\n")
    refused(lambda: open_images(path, "--a"), "is no .npz that can be read")


def test_a_pipe_is_refused(path):
    os.mkfifo(path)
    for call in (lambda: open_images(path, "--a"), lambda: FeatureStatistics.load(path)):
        refused(call, "does not exist|no regular file")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.full(2, 1e200), "sigma": np.eye(2)}, "values above 1e\\+100"),
        ({"mu": np.zeros(2), "sigma": np.eye(2) * 1e308}, "values above 1e\\+100"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "count": np.int64(-4)}, "is of -4 images"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "count": np.float64(np.nan)}, "is no integer"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "they must be"),
    ],
)
def test_other_statistics_are_refused(path, arrays, message):
    np.savez(path, **arrays)
    refused(lambda: FeatureStatistics.load(path), message)


def test_features_without_number_need_no_memory():
    refused(lambda: FeatureStatistics(2**26), "statistics of 67,108,864 features are asked for")
