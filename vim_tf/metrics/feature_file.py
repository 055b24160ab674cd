"""Features of many images on disk, for measures that need all of them at once."""

import contextlib
import errno
import tempfile
import weakref
from typing import IO, Self

import numpy as np

from vim_tf.annotations import StrPath, Tensor
from vim_tf.errors import UserError
from vim_tf.metrics.feature_checks import check_features


class FeatureSpool:
    """Rows of float32 in a file without a name.

    The file has no entry in its folder: its space is free again when it is closed, or when the
    process ends in any way. 50,000 rows of 2,048 features take 410 MB.

        with FeatureSpool(dim) as spool:
            spool.append(features)  # once a batch
            kid(spool.finish(), reference)

    Args:
        dim: features a row, D.
        folder: the folder of the file; None is the system's folder for temporary files (TMPDIR).

    Attributes:
        count: number of rows so far.
    """

    def __init__(self, dim: int, folder: StrPath | None = None) -> None:
        self.dim = dim
        self.count = 0
        self._folder = folder or tempfile.gettempdir()
        try:
            # Mode a: np.memmap moves the position, but writing still appends.
            self._file = tempfile.TemporaryFile("a+b", dir=self._folder)
        except OSError as error:
            raise UserError(
                f"no file can be made in {self._folder} ({error.strerror}); features are kept on "
                "disk: set TMPDIR to a folder that can be written to"
            ) from error
        # Without this, Python warns about an open file if a spool is collected and was not closed.
        weakref.finalize(self, _discard, self._file)

    def append(self, features: np.ndarray | Tensor) -> None:
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

    def finish(self) -> np.ndarray:
        """Returns all rows so far as a read-only np.memmap [N,D] float32.

        It may be called again after more rows were appended. The map stays valid when the spool is
        closed; the space is free when neither exists any more.
        """
        if not self.count:  # an empty file cannot be mapped
            return np.empty((0, self.dim), "<f4")
        return np.memmap(self._file, "<f4", mode="r", shape=(self.count, self.dim))

    def close(self) -> None:
        """Deletes the rows."""
        _discard(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FeatureRows:
    """Some rows of an array, which are read when they are needed.

    Args:
        features: [M,D], may be a memmap.
        chosen: bool [M], true for the rows.
    """

    def __init__(self, features: np.ndarray, chosen: np.ndarray) -> None:
        self._features, self._places = features, np.flatnonzero(chosen)
        self.shape = (len(self._places), features.shape[1])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Rows [B] int -> [B,D]."""
        return self._features[self._places[rows]]


def _discard(file: IO[bytes]) -> None:
    # After a full disk, closing tries again to write the remaining bytes.
    with contextlib.suppress(OSError):
        file.close()
