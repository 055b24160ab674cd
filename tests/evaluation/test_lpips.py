import os

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from vim_tf.errors import UserError
from vim_tf.evaluation import lpips
from vim_tf.evaluation.lpips import open_lpips
from vim_tf.files import hash_file


@pytest.fixture(scope="module")
def distances(lpips_file):
    return open_lpips(lpips_file)


def make_pair(count=2, height=35, width=18):
    rng = np.random.default_rng(1)
    a, b = rng.uniform(-1, 1, (2, count, height, width, 3)).astype("float32")
    return a, 0.8 * a + 0.2 * b


def definition(a, b, tensors):
    """LPIPS of one image, block by block, in PyTorch's layout and float64."""
    given = {name: value.astype("float64") for name, value in tensors.items()}
    shift, scale = (given[f"scaling_layer.{name}"][0] for name in ("shift", "scale"))
    a, b = ((image.transpose(2, 0, 1) - shift) / scale for image in (a, b))  # [3,H,W]
    total = 0.0
    for block in range(5):
        if block > 0:
            a, b = halve(a), halve(b)
        for name in given:
            if name.startswith(f"net.slice{block + 1}.") and name.endswith("weight"):
                bias = given[name.replace("weight", "bias")]
                a, b = (np.maximum(convolve(x, given[name], bias), 0) for x in (a, b))
        unit_a, unit_b = (x / (np.sqrt(np.sum(x**2, 0)) + 1e-10) for x in (a, b))
        weights = given[f"lin{block}.model.1.weight"][0]  # [C,1,1]
        total += np.mean(np.sum(weights * (unit_a - unit_b) ** 2, 0))
    return total


def convolve(x, kernel, bias):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))  # [C,H,W,3,3]
    return np.tensordot(kernel, windows, ([1, 2, 3], [0, 3, 4])) + bias[:, None, None]


def halve(x):
    """The largest of each 2 x 2. An odd last row or column is left out."""
    height, width = (side // 2 for side in x.shape[1:])
    x = x[:, : 2 * height, : 2 * width]
    return x.reshape(len(x), height, 2, width, 2).max((2, 4))


def test_lpips_is_its_definition(distances, lpips_tensors):
    a, b = make_pair()
    expected = [definition(x, y, lpips_tensors) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(distances(a, b), expected, rtol=1e-5)


def test_equal_images_are_at_distance_0_even_where_nothing_is_seen(lpips_tensors, tmp_path):
    """A position with only zeros in its channels has no direction. It counts as equal, not NaN."""
    blind = {**lpips_tensors, "net.slice5.28.bias": np.full(512, -1e9, "float32")}
    save_file(blind, tmp_path / "blind.safetensors")
    distances = open_lpips(tmp_path / "blind.safetensors")
    a, b = make_pair()
    # Threads may split the sums of two equal images differently: it can be 1e-13 instead of 0.
    np.testing.assert_allclose(distances(a, a), 0, atol=1e-10)
    (tmp_path / "blind.safetensors").unlink()
    expected = definition(a[0], b[0], blind)
    np.testing.assert_allclose(distances(a, b)[0], expected, rtol=1e-5)


def test_images_do_not_depend_on_their_batch(distances):
    a, b = make_pair(2 * lpips.IMAGES_AT_ONCE + 1, 16, 16)
    every = distances(a, b)
    assert (every.shape, every.dtype) == ((len(a),), np.float32)
    one_by_one = [distances(a[i : i + 1], b[i : i + 1])[0] for i in range(len(a))]
    np.testing.assert_allclose(every, one_by_one, rtol=1e-5)
    np.testing.assert_allclose(distances(tf.constant(a), tf.constant(b)), every, rtol=1e-6)


def test_memory_is_that_of_a_few_images(distances, monkeypatch):
    sizes = []
    measure = distances._distances
    monkeypatch.setattr(distances, "_distances", lambda a, b: sizes.append(len(a)) or measure(a, b))
    a, b = make_pair(lpips.IMAGES_AT_ONCE + 3, 16, 16)
    distances(a, b)
    assert sizes == [lpips.IMAGES_AT_ONCE, 3]


def test_the_smallest_image(distances, lpips_tensors):
    a, b = make_pair(1, 16, 16)
    np.testing.assert_allclose(distances(a, b), definition(a[0], b[0], lpips_tensors), rtol=1e-5)
    with pytest.raises(UserError, match="LPIPS of images of 16 x 15 was asked for"):
        distances(a[:, :, :15], b[:, :, :15])


def test_what_a_result_says(distances, lpips_file):
    assert distances.description == {
        "network": "VGG16, LPIPS version 0.1",
        "path": str(lpips_file),
        "sha256": hash_file(lpips_file),
    }


# Mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.5, np.nan])
def test_another_range_is_refused(distances, scale):
    a, _ = make_pair()
    for pair in ((a, scale * a), (scale * a, a)):
        with pytest.raises(ValueError, match=r"LPIPS takes \[-1,1\]"):
            distances(*pair)


def test_other_shapes_are_refused(distances):
    a, b = make_pair()
    for pair in ((a, b[:1]), (a[0], b[0]), (a[..., :2], b[..., :2])):
        with pytest.raises(ValueError, match="the shapes are"):
            distances(*pair)


@pytest.fixture
def write(tmp_path, lpips_tensors):
    """A function (changes by name, None removes) -> path of a file, as small as possible."""

    def write(changes):
        small = {name: np.zeros(1, "float32") for name in lpips_tensors}
        fitting = {name: value for name, value in lpips_tensors.items() if value.size < 9}
        tensors = small | fitting | changes
        path = tmp_path / "x.safetensors"
        save_file({name: value for name, value in tensors.items() if value is not None}, path)
        return path

    return write


SHIFT = "scaling_layer.shift"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lin4.model.1.weight": None}, "holds other weights, without lin4.model.1.weight"),
        ({SHIFT: np.zeros((1, 4, 1, 1), "float32")}, r"F32 \[1, 4, 1, 1\], not F32 \[1, 3, 1, 1\]"),
        ({SHIFT: np.zeros((1, 3, 1, 1), "float16")}, r"scaling_layer.shift is F16 \[1, 3, 1, 1\]"),
        # The first weight that does not fit: AlexNet has 11 x 11 there.
        (
            {"net.slice1.0.weight": np.zeros((64, 3, 11, 11), "float32")},
            r"net.slice1.0.weight is F32 \[64, 3, 11, 11\], not F32 \[64, 3, 3, 3\]",
        ),
    ],
)
def test_other_weights_are_refused(write, changes, message):
    path = write(changes)
    with pytest.raises(UserError, match=message) as caught:
        open_lpips(path)
    assert f"lpips {path}" in str(caught.value)
    assert "docs/evaluation.md" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_refused(lpips_tensors, tmp_path):
    path = tmp_path / "x.safetensors"
    damaged = lpips_tensors["net.slice5.28.bias"].copy()
    damaged[7] = np.nan
    save_file({**lpips_tensors, "net.slice5.28.bias": damaged}, path)
    with pytest.raises(UserError, match="net.slice5.28.bias holds NaN or infinity"):
        open_lpips(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="x.safetensors is no .safetensors file") as caught:
        open_lpips(path)
    assert "\n" not in str(caught.value)
    path.unlink()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="which is no file; give the weights of lpips.LPIPS"):
        open_lpips(tmp_path / "lpips_vgg.safetensors")
    (tmp_path / "vgg.pth").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(UserError, match="vgg.pth is no .safetensors file"):
        open_lpips(tmp_path / "vgg.pth")


def test_a_header_or_a_size_that_lies_is_refused(write, tmp_path):
    path = write({})
    whole = path.read_bytes()
    path.write_bytes((2**40).to_bytes(8, "little") + whole[8:])
    with pytest.raises(UserError, match="its header is too long"):
        open_lpips(path)
    end = 8 + int.from_bytes(whole[:8], "little")
    header = whole[8:end].replace(b'"shape":[1]', b'"shape":[1000000000000]')
    path.write_bytes(len(header).to_bytes(8, "little") + header + whole[end:])
    with pytest.raises(UserError, match=r"x.safetensors is no .safetensors file \("):
        open_lpips(path)
    path.write_bytes((4).to_bytes(8, "little") + b"\xff\xfe{}")
    with pytest.raises(UserError, match=r"x.safetensors is no .safetensors file \("):
        open_lpips(path)


def test_a_pipe_and_files_above_512_mib_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match="which is no file"):
        open_lpips(tmp_path / "pipe.safetensors")
    with open(tmp_path / "large.safetensors", "wb") as file:
        file.truncate(2**29 + 1)
    with pytest.raises(UserError, match="has 536,870,913 bytes"):
        open_lpips(tmp_path / "large.safetensors")


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        (None, "LPIPS"),
        ({"maker": "x"}, "LPIPS"),
        ({"name": "pseudo-LPIPS[hed.v-2]"}, "pseudo-LPIPS[hed.v-2]"),
    ],
)
def test_a_file_of_other_convolutions_names_its_figure(lpips_tensors, tmp_path, metadata, name):
    save_file(lpips_tensors, tmp_path / "x.safetensors", metadata)
    opened = open_lpips(tmp_path / "x.safetensors")
    assert opened.name == name
    assert opened.description["network"] == (lpips.NETWORK if name == "LPIPS" else name)


@pytest.mark.parametrize("name", ["PSNR", "pseudo-LPIPS[]", "pseudo-LPIPS[a|b]", "x" * 9000, ""])
def test_no_file_names_its_figure_otherwise(lpips_tensors, tmp_path, name):
    save_file(lpips_tensors, tmp_path / "x.safetensors", {"name": name})
    with pytest.raises(UserError, match="calls its figure .*; allowed are LPIPS") as e:
        open_lpips(tmp_path / "x.safetensors")
    assert len(str(e.value)) < 500
