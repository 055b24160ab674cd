import hashlib

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from vim_tf.errors import UserError
from vim_tf.evaluation import graph_checks, inception_graph
from vim_tf.evaluation.features import open_extractor
from vim_tf.evaluation.resizing import resize_clean

SIZE = (35, 31)  # the graph resizes to this size


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 20, 24, 3), "uint8")


def run_as_in_2015(graph, entry, images):
    """Runs the original graph in a session, one image at a time: pooled, spatial, logits."""
    answers = []
    with tf.Graph().as_default() as building, tf.compat.v1.Session() as session:
        pixels = tf.compat.v1.placeholder(tf.float32, [1, None, None, 3])
        outputs = ["pool_3:0", "mixed_6/conv:0", "softmax/logits/MatMul:0"]
        tensors = tf.compat.v1.import_graph_def(graph, {entry: pixels}, outputs, name="")
        assert building.get_operation_by_name("mixed_6/conv/batchnorm").type.startswith(
            "BatchNormW"
        )
        for image in images.astype("float32"):
            answers.append(session.run(tensors, {pixels: image[None]}))
    pooled, spatial, logits = (np.concatenate(part) for part in zip(*answers, strict=True))
    return pooled.reshape(len(images), -1), spatial[..., :7].reshape(len(images), -1), logits


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("mode", ["adm", "legacy", "clean"])
def test_the_graph_answers_as_in_2015(write_frozen_graph, tmp_path, images, mode, scaled):
    graph = write_frozen_graph(tmp_path / "net.pb", scaled=scaled)
    extractor = open_extractor(tmp_path / "net.pb", mode)
    found = extractor(images)
    if mode == "clean":
        expected = run_as_in_2015(graph, "ResizeBilinear:0", resize_clean(images, SIZE))
    else:
        expected = run_as_in_2015(graph, "ExpandDims:0", images)
    pooled, spatial, logits = expected
    assert (extractor.dim, extractor.spatial_dim, extractor.classes) == (6, 7 * 9 * 8, 5)
    np.testing.assert_allclose(found.pooled, pooled, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.spatial, spatial, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.probabilities, softmax(logits, axis=1), rtol=1e-4)


def test_the_graph_knows_no_batch_size(write_frozen_graph, tmp_path):
    """Its file has shapes for one image everywhere, which TensorFlow must ignore."""
    path = tmp_path / "net.pb"
    write_frozen_graph(path)
    graph = graph_checks.read_graph(path.read_bytes(), "x")
    inception_graph.modernise(graph)
    part = graph_checks.cut_out(graph, "ExpandDims", ("pool_3", "mixed_6/conv"), "x")
    network, _ = inception_graph.import_graph(part, "mixed_6/conv/batchnorm/beta", "x")
    assert [shape.as_list() for shape in network.output_shapes] == [
        [None, 1, 1, 6],
        [None, 9, 8, 7],
    ]


def test_modes_differ(write_frozen_graph, tmp_path, images):
    write_frozen_graph(tmp_path / "net.pb")
    adm, clean = (open_extractor(tmp_path / "net.pb", mode)(images) for mode in ("adm", "clean"))
    assert np.abs(adm.pooled - clean.pooled).max() > 0.1


def test_only_the_real_sizes_are_called_by_no_name(write_frozen_graph, tmp_path):
    write_frozen_graph(tmp_path / "tiny.pb")
    assert open_extractor(tmp_path / "tiny.pb").name == "tiny"
    # 68 / 4 = 17 positions per side.
    write_frozen_graph(tmp_path / "net.pb", dim=2048, classes=1008, size=(68, 68))
    extractor = open_extractor(tmp_path / "net.pb")
    assert extractor.name == ""
    assert (extractor.dim, extractor.spatial_dim, extractor.classes) == (2048, 2023, 1008)


def test_the_hash_is_that_of_the_file(write_frozen_graph, tmp_path):
    path = tmp_path / "net.pb"
    write_frozen_graph(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert open_extractor(path, expected_hash=sha256.upper()).sha256 == sha256
    with pytest.raises(UserError, match=f"has the SHA-256 {sha256}, not 12ab"):
        open_extractor(path, expected_hash="12ab")


def test_weights_that_are_missing_are_said_to_be(tmp_path):
    for path in (None, tmp_path / "nowhere.pb"):
        with pytest.raises(UserError, match="classify_image_graph_def.pb.*docs/evaluation.md"):
            open_extractor(path)


def test_other_files_are_refused(write_frozen_graph, tmp_path):
    for name, content, message in (
        ("a.pb", b"no graph", "is no TensorFlow graph"),
        ("b.pb", b"", "another graph: it has no ExpandDims"),
        ("c.h5", b"", "must end in .pb or .keras"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            open_extractor(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_graph_that_cannot_be_run_is_refused(write_frozen_graph, tmp_path):
    graph = write_frozen_graph(tmp_path / "net.pb")
    for node in graph.node:
        if node.name == "last":
            node.attr["strides"].list.i[:] = [1, 1, 1, 2]
    (tmp_path / "net.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(UserError, match=r"cannot be run \(.*stride") as caught:
        open_extractor(tmp_path / "net.pb")
    assert "\n" not in str(caught.value)


def test_a_graph_of_nan_is_refused(write_frozen_graph, tmp_path, images):
    graph = write_frozen_graph(tmp_path / "net.pb")
    for node in graph.node:
        if node.name == "mixed_6/conv/batchnorm/beta":
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.full(8, np.nan, "float32")))
    (tmp_path / "net.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(UserError, match=r"gives NaN or infinity \(batchnorm : Tensor had NaN"):
        open_extractor(tmp_path / "net.pb")(images)
