import contextlib
import os

import numpy as np
import pytest

from vim_tf import UserError
from vim_tf.metrics.feature_file import FeatureRows, FeatureSpool

ROWS = np.random.default_rng(0).normal(size=(23, 5)).astype("float32")


def test_rows_come_back_as_they_were_appended(tmp_path):
    with FeatureSpool(5, tmp_path) as spool:
        for batch in np.split(ROWS, [4, 4, 20]):
            spool.append(batch)
        rows = spool.finish()
        assert isinstance(rows, np.memmap)
        assert spool.count == 23
        np.testing.assert_array_equal(rows, ROWS)
        with pytest.raises(ValueError, match="read-only"):
            rows[0] = 0


def test_rows_may_follow_after_reading():
    with FeatureSpool(5) as spool:
        spool.append(ROWS[:9])
        first = spool.finish()
        spool.append(ROWS[9:])
        np.testing.assert_array_equal(spool.finish(), ROWS)
        np.testing.assert_array_equal(first, ROWS[:9])


def test_float64_is_rounded_and_order_of_memory_does_not_matter():
    values = np.asfortranarray(ROWS.astype("float64") * (1 + 1e-12))
    with FeatureSpool(5) as spool:
        spool.append(values)
        np.testing.assert_array_equal(spool.finish(), values.astype("float32"))


def test_nothing_is_a_set_without_rows():
    with FeatureSpool(5) as spool:
        assert spool.finish().shape == (0, 5)


def open_files(folder):
    """The number of open files in a folder, including those without a name."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the file of the listing is closed by now
            count += os.readlink(f"/proc/self/fd/{name}").startswith(str(folder))
    return count


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files on Linux")
def test_nothing_is_left(tmp_path):
    assert open_files(tmp_path) == 0
    with FeatureSpool(5, tmp_path) as spool:
        spool.append(ROWS)
        rows = spool.finish()
        assert not list(tmp_path.iterdir())  # so even a kill leaves no file
        assert open_files(tmp_path) > 0
    np.testing.assert_array_equal(rows, ROWS)  # the map is valid after the spool is closed
    forgotten = FeatureSpool(5, tmp_path)
    forgotten.append(ROWS)
    del rows, spool, forgotten
    assert open_files(tmp_path) == 0


def test_bad_rows_are_refused_and_not_kept():
    with FeatureSpool(5) as spool:
        spool.append(ROWS)
        with pytest.raises(UserError, match="row 24 of the features holds inf at place 0"):
            spool.append([[0] * 5, [np.inf] * 5])
        with pytest.raises(ValueError, match=r"it must be \[B, 5\]"):
            spool.append(ROWS[:, :4])
        np.testing.assert_array_equal(spool.finish(), ROWS)


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match="set TMPDIR"):
        FeatureSpool(5, tmp_path / "none")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line():
    class FullSpool(FeatureSpool):
        def fill(self):
            self._file.close()
            self._file = open("/dev/full", "wb")

    with pytest.raises(UserError, match="is full after 0 rows of 5 features"):
        with FullSpool(5) as spool:
            spool.fill()
            spool.append(ROWS)


def test_chosen_rows_are_read_by_their_number():
    features = np.arange(40).reshape(10, 4)
    rows = FeatureRows(features, np.arange(10) % 3 == 1)
    assert (len(rows), rows.shape) == (3, (3, 4))
    np.testing.assert_array_equal(rows[np.array([2, 0])], features[[7, 1]])
