"""The tools and measurements of the export for browsers; test_decoder.py runs the export."""

import base64
import importlib.util
import json
import shutil

import numpy as np
import pytest

from vim_tf.errors import UserError
from vim_tf.export.browser import tfjs, tfjs_convert


def make_node_modules(folder, version=tfjs.VERSION):
    """Makes the files of npm that `check_tools` reads."""
    for package, files in tfjs.LIBRARY.items():
        dist = folder / "@tensorflow" / package / "dist"
        dist.mkdir(parents=True)
        (dist.parent / "package.json").write_text(json.dumps({"version": version}))
        for name in files:
            (dist / name).touch()
    return folder


@pytest.fixture
def all_tools(tmp_path, monkeypatch):
    """A node_modules that `check_tools` accepts, also if this machine lacks the tools."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    node_modules = make_node_modules(tmp_path / "node_modules")
    tfjs.check_tools(node_modules)
    return node_modules


def test_a_missing_converter_is_told_with_the_pip_line(all_tools, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps tensorflowjs==4\.22\.0 six"):
        tfjs.check_tools(all_tools)


def test_a_missing_node_is_told(all_tools, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"no node is on PATH.*Node\.js 18"):
        tfjs.check_tools(all_tools)


@pytest.mark.parametrize("package", tfjs.LIBRARY)
def test_missing_packages_are_told_with_the_npm_line(all_tools, package):
    (all_tools / "@tensorflow" / package / "dist" / tfjs.LIBRARY[package][-1]).unlink()
    line = rf"@tensorflow/{package}, not in {all_tools}.*npm install .*tfjs-backend-wasm@4\.22\.0"
    with pytest.raises(UserError, match=line):
        tfjs.check_tools(all_tools)


def test_packages_of_another_version_are_told(all_tools, tmp_path):
    old = make_node_modules(tmp_path / "old", "3.21.0")
    with pytest.raises(UserError, match=r"is version 3\.21\.0; it must be 4\.22\.0.*npm install"):
        tfjs.check_tools(old)


def test_levels_are_compared_as_they_are_shown():
    expected = np.full([1, 2, 2, 3], -1, "float32")
    actual = expected.copy()
    actual[0, 0, 0, 1] += 1.2 * 2 / 255  # one grey level, in one of four pixels
    actual[0, 1, 1, 2] += 0.3 * 2 / 255  # rounds to the same level
    assert tfjs.compare_levels(expected, actual) == {"max_levels": 1, "off_pixels": 0.25}


def test_tanh_is_taken_out_of_a_fused_product():
    def product(name, *operations):
        names = [base64.b64encode(operation).decode() for operation in operations]
        attributes = {"T": {"type": "DT_FLOAT"}, "fused_ops": {"list": {"s": names}}}
        return {"name": name, "op": "_FusedMatMul", "input": ["x", "w", "b"], "attr": attributes}

    others = [{"name": "x", "op": "Placeholder"}, product("y", b"BiasAdd")]
    assert [tfjs_convert.split_tanh(node) for node in others] == [[node] for node in others]
    linear, tanh = tfjs_convert.split_tanh(product("head", b"BiasAdd", b"Tanh"))
    assert linear == product(linear["name"], b"BiasAdd") and linear["name"] != "head"
    assert (tanh["name"], tanh["op"], tanh["input"]) == ("head", "Tanh", [linear["name"]])
