"""Features of many images on disk, for measures that need all of them at once."""

import contextlib
import errno
import tempfile
import weakref

import numpy as np

from vim_tf.errors import UserError
from vim_tf.metrics.feature_checks import check_features


class FeatureSpool:
    """Rows of float32 that lie in a file without a name.

    The file has no entry in its folder, so that its space is free again once it is closed or the
    process ends, however it ends. 50,000 rows of 2,048 features take 410 MB.

        with FeatureSpool(dim) as spool:
            spool.append(features)  # once a batch
            kid(spool.finish(), reference)

    Args:
        dim: features a row, D.
        folder: where the file lies; None is the system's folder for temporary files (TMPDIR).

    Attributes:
        count: rows so far.
    """

    def __init__(self, dim, folder=None):
        self.dim = dim
        self.count = 0
        self._folder = folder or tempfile.gettempdir()
        try:
            # Appending: np.memmap moves the file's position.
            self._file = tempfile.TemporaryFile("a+b", dir=self._folder)
        except OSError as error:
            raise UserError(
                f"no file can be made in {self._folder} ({error.strerror}); features are kept on "
                "disk: set TMPDIR to a folder that can be written to"
            ) from error
        # Who forgets to close it gets no warning about an open file when it is collected.
        weakref.finalize(self, _discard, self._file)

    def append(self, features):
        """Writes rows [B,D], rounded to float32.

        Raises:
            ValueError: another shape.
            UserError: NaN or infinity, or a full disk.
        """
        features = check_features(features, self.dim, self.count)
        try:
            self._file.write(np.ascontiguousarray(features, "<f4").tobytes())
            self._file.flush()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise UserError(
                f"the disk of {self._folder} is full after {self.count} rows of {self.dim} "
                f"features ({4 * self.dim} bytes each); free some, set TMPDIR to another folder, "
                "or evaluate fewer images"
            ) from error
        self.count += len(features)

    def finish(self):
        """Returns all rows so far as a read-only np.memmap [N,D] float32.

        It may be called again after more rows were appended. The map stays valid when the spool is
        closed; the space is free once neither exists.
        """
        if not self.count:  # an empty file cannot be mapped
            return np.empty((0, self.dim), "<f4")
        return np.memmap(self._file, "<f4", mode="r", shape=(self.count, self.dim))

    def close(self):
        """Deletes the rows."""
        _discard(self._file)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _discard(file):
    # After a full disk, closing tries once more to write what did not fit.
    with contextlib.suppress(OSError):
        file.close()
