"""The user's own code: how its file is run, and how what it raises becomes one line. Ours."""

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from diffmech.batches import out_of_memory
from diffmech.errors import DiffmechError, ModelError
from diffmech.workflow.own_code import OwnCode, find_code, is_installed, own_files


def locate(named: str, root: Path, *, key: str, kind: str) -> OwnCode:
    """Return where `path/to/file.py:name` or `package.module:name` lies; nothing is run.

    Raises ModelError where there is no such file: `key` is what names it in config.yaml, `kind` what it should name.
    """
    code = find_code(named, root)
    if code is None:
        target = named.rpartition(":")[0]
        what = "no such file" if target.endswith(".py") else "no such module can be imported"
        raise ModelError(f"{key} {named!r}: {what} ({looked(root)}); give path/to/file.py:{kind}")
    return code


def run(code: OwnCode) -> ModuleType:
    """Run the file of `code`, and anew those it imports from its folder, so that what runs is what was hashed."""
    own = {str(file) for file in own_files(code)}
    for name, loaded in list(sys.modules.items()):
        if getattr(loaded, "__file__", None) in own and not is_installed(code.file):
            del sys.modules[name]
    sys.path.insert(0, str(code.folder))
    try:
        if code.module:
            return importlib.import_module(code.module)
        name = f"own_{hashlib.sha256(str(code.file).encode()).hexdigest()[:12]}"
        spec = importlib.util.spec_from_file_location(name, code.file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where dataclasses and pickle look for it
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(code.folder))


@contextmanager
def blaming(code: OwnCode) -> Iterator[None]:
    """Turn what the user's code raises into one line that names its last own line."""
    try:
        yield
    except DiffmechError:
        raise
    except Exception as error:
        own = {str(file) for file in own_files(code)}
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
        where = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else str(code.file)
        if isinstance(error, SyntaxError) and error.filename in own:
            where = f"{error.filename}, line {error.lineno}"
        reason = " ".join(str(error).split())[:300]
        advice = "mend it there"
        if out_of_memory(error):  # a single image was asked for
            advice = "study smaller images (images.size), or run on a device with more memory (runtime.device)"
        raise ModelError(f"{where}: {type(error).__name__}: {reason.rstrip('.')}; {advice}") from error


def looked(root: Path) -> str:
    """Return where a path of the user's was looked for, as errors say it."""
    return "looked from " + " and ".join(dict.fromkeys([str(Path.cwd()), str(root.resolve())]))
