"""The errors that a user can cause and mend. Each says what was found, where, what was expected and what to do."""


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
