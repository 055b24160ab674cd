"""What the weights of a training are made from: kept with them, and compared when it goes on."""

import threading

from vim_tf import fingerprints
from vim_tf.errors import UserError


class MadeFrom:
    """The images, and the tokenizer of stage 2, that a run is trained on.

    The contents of the files are read once, by a thread, while the first epoch reads them anyway.

    Args:
        data: the `ImageData`.
        tokenizer_hash: `ViTVQGAN.model_hash` of stage 2's tokenizer; None in other trainings.
        folder: the run's folder.
    """

    def __init__(self, data, tokenizer_hash, folder):
        self._data, self._tokenizer_hash, self._folder = data, tokenizer_hash, folder
        self._stop, self._thread, self._kept = threading.Event(), None, None

    def describe(self):
        """Returns what it is now, a dict for JSON: `images`, a fingerprint, and `tokenizer`."""
        return {"images": self._data.fingerprint(), "tokenizer": self._tokenizer_hash}

    def check(self, path, then):
        """Raises UserError if something was made from something else.

        Args:
            path: what was made.
            then: what `describe` answered when it was made.
        """
        advice = "give back what it was made from, or give another workdir"
        found = self._data.difference(then["images"], fingerprints.load(self._folder))
        if found is not None:
            raise fingerprints.made_from_other_images(path, found, advice)
        if then["tokenizer"] != self._tokenizer_hash:
            names = [str(name)[:16] for name in (then["tokenizer"], self._tokenizer_hash)]
            raise UserError(
                f"{path} was trained on tokens of the tokenizer {names[0]}, but the one in use is "
                f"{names[1]}: their tokens mean different things; {advice}"
            )

    def start(self):
        """Begins to read the contents."""
        read = self._data.read_contents
        self._thread = threading.Thread(target=read, args=(self._stop.is_set,), daemon=True)
        self._thread.start()

    def keep(self):
        """Writes names, sizes, times, and the contents that were read so far into the folder.

        A checkpoint calls it before it writes what `describe` answers.
        """
        known = self._data.known_contents()
        if known != self._kept:
            fingerprints.save(self._folder, self._data.tables)
            self._kept = known

    def close(self):
        """Ends the reading where it is, and keeps what was read."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self.keep()
