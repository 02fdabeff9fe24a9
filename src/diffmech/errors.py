"""The errors that a user can cause and mend. Each says what was found, where, what was expected and what to do."""

import struct
import zipfile
import zlib


class DiffmechError(Exception):
    """Base of every error that is answered with one line instead of a traceback."""


class ConfigError(DiffmechError):
    """A value in config.yaml cannot be used."""


class DataError(DiffmechError):
    """An image, a label table, a mask or a data set folder cannot be used."""


class ModelError(DiffmechError):
    """A denoiser cannot be found, loaded, or is not one that can be studied."""


class StoreError(DiffmechError):
    """A stored artifact is missing, unreadable or not what it should be."""


# What zipfile raises of an archive that changed or was cut; a RuntimeError where it seems encrypted or of a later ZIP.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)
