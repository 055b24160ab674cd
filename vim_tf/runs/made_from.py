"""The sources of a training's weights: saved with them, and compared when it resumes."""

import threading
from collections.abc import Mapping
from typing import Any

from etils import epath

from vim_tf import fingerprints
from vim_tf.annotations import StrPath
from vim_tf.data.images import ImageData
from vim_tf.errors import UserError
from vim_tf.messages import shorten


class MadeFrom:
    """The images, and the frozen tokenizer, that a run is trained on.

    A thread reads the contents of the files once, while the first epoch reads the same files.

    Args:
        data: the images.
        token_hash: `ViTVQGAN.token_hash` of the frozen tokenizer; None without one.
        folder: the run's folder.
    """

    def __init__(self, data: ImageData, token_hash: str | None, folder: epath.Path) -> None:
        self._data, self._token_hash, self._folder = data, token_hash, folder
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._kept: int | None = None

    def describe(self) -> dict[str, Any]:
        """Returns the sources as a dict for JSON: `images`, a fingerprint, and `tokens`."""
        return {"images": self._data.fingerprint(), "tokens": self._token_hash}

    def check(self, path: StrPath, then: Mapping[str, Any]) -> None:
        """Raises UserError if a checkpoint was made from other sources.

        Args:
            path: the name of the checkpoint, for the error.
            then: the result of `describe` when it was made.
        """
        advice = "use the same images and tokenizer as before, or give another workdir"
        found = self._data.difference(then["images"], fingerprints.load(self._folder))
        if found is not None:
            raise fingerprints.made_from_other_images(path, found, advice)
        self._check_tokenizer(path, then, advice)

    def compare(self, path: StrPath, then: Mapping[str, Any], folder: epath.Path) -> list[str]:
        """Compares the sources with those of another run, which may be of other images.

        Args:
            path: the name of the other run's checkpoint, for the error.
            then: the result of `describe` when it was made.
            folder: the other run's folder.

        Returns:
            Lines for the user.

        Raises:
            UserError: the other run was trained on tokens of another tokenizer.
        """
        self._check_tokenizer(path, then, "give its tokenizer as tokenizer.run")
        found = self._data.difference(then["images"], fingerprints.load(folder))
        return [] if found is None else [f"goes on with other images: {found}"]

    def _check_tokenizer(self, path: StrPath, then: Mapping[str, Any], advice: str) -> None:
        if then["tokens"] != self._token_hash:
            names = [shorten(str(name)[:16]) for name in (then["tokens"], self._token_hash)]
            raise UserError(
                f"{path} was trained on the tokens {names[0]}, and the tokenizer in use makes "
                f"{names[1]}: they mean different things; {advice}"
            )

    def start(self) -> None:
        """Starts the thread that reads the contents."""
        read = self._data.read_contents
        self._thread = threading.Thread(target=read, args=(self._stop.is_set,), daemon=True)
        self._thread.start()

    def keep(self) -> None:
        """Saves names, sizes, times and the hashes of the contents read so far in the folder.

        `Checkpoints` calls it before it writes the result of `describe`.
        """
        known = self._data.known_contents()
        if known != self._kept:
            fingerprints.save(self._folder, self._data.tables)
            self._kept = known

    def close(self) -> None:
        """Stops the thread, and saves the hashes of the contents read so far."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self.keep()
