"""Versions of vim_tf and of the packages that its results depend on."""

import platform
from importlib import metadata

VERSION = "0.1.0"
PACKAGES = ("tensorflow", "keras", "numpy", "Pillow")


def installed_versions() -> dict[str, str]:
    """Returns {package: version} of vim_tf, Python and `PACKAGES`."""
    versions = {"vim_tf": VERSION, "python": platform.python_version()}
    return versions | {name.lower(): metadata.version(name) for name in PACKAGES}
