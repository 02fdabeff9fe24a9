"""Reading the weights of a class of the user's own: what the file is, which of its names fit, and what to do if not.

A file that was downloaded as a page or as a pointer is named as what it is. Where every name has one prefix more than
the class has, as wrappers leave it (`module.` of parallel training, `_orig_mod.` of compiled networks, the name of an
attribute), it is taken off, if all that is left then fits. Ours.
"""

import logging
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffmech.errors import ModelError

logger = logging.getLogger(__name__)

# How files begin that bear the name of weights and are none, and what they are.
PRETENDERS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file it stands for; run git lfs pull in its repository",
    b"version https://hawser": "a pointer of Git LFS, not the file it stands for; run git lfs pull in its repository",
    b"/annex/objects": "a pointer of git-annex, not the file it stands for; run git annex get",
    b"<!doctype": "a web page (HTML); download the file itself, by the link that is named raw or download",
    b"<html": "a web page (HTML); download the file itself, by the link that is named raw or download",
    b"<?xml": "an XML document, such as the error of a download; download the file again",
    b"{": "a JSON text; give the file of the weights that it may belong to",
    b"\x89HDF": "an HDF5 file, as Keras writes it; save model.state_dict() of the torch module",
    b"\x93NUMPY": "a NumPy array; save model.state_dict() of the torch module",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"GGUF": "a GGUF file; save model.state_dict() of the torch module",
}
HEAD_BYTES = 512


def read_weights(module: nn.Module, file: Path) -> None:
    """Put the state_dict of `file` into `module`. Raises ModelError where it is none, or of another network."""
    content = _tensors(file)
    wanted = module.state_dict()
    prefix = _prefix(content, wanted)
    if prefix:
        logger.warning("%s: all names of its weights begin with %r, which is taken off", file, prefix)
        content = {name.removeprefix(prefix): value for name, value in content.items()}
    missing = [name for name in wanted if name not in content]
    unknown = [name for name in content if name not in wanted]
    reshaped = [name for name in wanted if name in content and content[name].shape != wanted[name].shape]
    if recast := [name for name in wanted if name in content and not _holds_kind(wanted[name], content[name])]:
        kinds = {name: (_kind(content[name]), _kind(wanted[name])) for name in recast}
        found, expected = kinds[recast[0]]
        raise ModelError(
            f"{file}: {len(recast)} of its weights are {found}, first {recast[0]}, where {type(module).__name__} has "
            f"{expected}: casting would change them; give the weights of this class, not quantised ones or those of "
            "another class"
        )
    if missing or unknown or reshaped:
        shapes = [f"{name} is {_shape(content[name])}, expected {_shape(wanted[name])}" for name in reshaped]
        told = [
            *([f"{len(missing)} are missing, first {missing[0]}"] if missing else []),
            *([f"{len(unknown)} are not of the class, first {unknown[0]}"] if unknown else []),
            *([f"{len(shapes)} have another shape: {'; '.join(shapes[:2])}"] if shapes else []),
        ]
        raise ModelError(
            f"{file}: its weights do not fit {type(module).__name__}, which has {len(wanted)}: {', '.join(told)}"
            f"{_advice(content, wanted)}"
        )
    module.load_state_dict(dict(content))


def _tensors(file: Path) -> Mapping[str, Tensor]:
    """Return the tensors of `file` by name. Raises ModelError, saying what the file is instead."""
    if what := pretended(file):
        raise ModelError(f"{file}: holds no weights but is {what}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zipfile and pickle each raise their own
        raise ModelError(f"{file}: {_unread(file, error)}") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        found = ", ".join(map(str, content))[:200] if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ModelError(f"{file}: holds {found}; expected the tensors of model.state_dict() and no more")
    return content


def pretended(file: Path) -> str:
    """Return what `file`, which bears the name of weights, is instead and what to do, empty where it may hold some."""
    head = _head(file)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "an empty file; download it again, or save model.state_dict()"
    if head[8:9] == b"{":  # of safetensors, which begins with any length
        return ""
    return next((what for begins, what in PRETENDERS.items() if start.startswith(begins.lower())), "")


def _head(file: Path) -> bytes:
    with file.open("rb") as source:
        return source.read(HEAD_BYTES)


def _unread(file: Path, error: Exception) -> str:
    """Say why tensors cannot be read, without what torch advises: to run the code that a file may hold."""
    head = _head(file)
    if file.suffix == ".safetensors" and (head.startswith(b"PK") or head.startswith(b"\x80")):
        return "is a file of torch.save under the name of another format; rename it to .pt"
    if file.suffix != ".safetensors" and head[8:9] == b"{":
        return "is a file of safetensors under the name of another format; rename it to .safetensors"
    saved = head.startswith((b"PK", b"\x80"))  # torch says the same of a text that is no pickle at all
    if saved and any(sign in str(error) for sign in ("weights_only", "WeightsUnpickler", "Unsupported global")):
        return (
            f"holds more than tensors{_classes(head)}, and only tensors are read, since objects in it could run any "
            "code; where it comes from, load it and save model.state_dict() and no more"
        )
    return (
        f"cannot be read as tensors ({type(error).__name__}), so it is damaged, cut off or of another kind; get it "
        "again, or save model.state_dict() and no more"
    )


def _classes(head: bytes) -> str:
    """Return what a pickle names first, where that can be read without running it."""
    try:
        names = [str(value) for code, value, _ in pickletools.genops(head) if code.name in ("GLOBAL", "STACK_GLOBAL")]
    except Exception:  # the head of a zip file, or cut in the middle
        names = []
    return f" ({names[0].replace(' ', '.')})" if names and names[0] != "None" else ""


def _holds_kind(wanted: Tensor, given: Tensor) -> bool:
    """Return whether numbers of the kind that is given can stand where others are wanted, but for their precision."""
    if wanted.is_complex() or given.is_complex():
        return wanted.is_complex() or not given.is_complex()
    return given.is_floating_point() or not wanted.is_floating_point()


def _kind(tensor: Tensor) -> str:
    return "complex numbers" if tensor.is_complex() else "real numbers" if tensor.is_floating_point() else "integers"


def _prefix(content: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return what stands before all names of `content` and leaves exactly those of `wanted`, empty where nothing does.

    A name that the class has as it is has no prefix.
    """
    if not content or not wanted or set(content) & set(wanted):
        return ""
    name = min(content, key=len)
    parts = name.split(".")
    for depth in range(1, len(parts)):
        prefix = ".".join(parts[:depth]) + "."
        if all(each.startswith(prefix) for each in content):
            left = {each.removeprefix(prefix): value.shape for each, value in content.items()}
            if left == {each: value.shape for each, value in wanted.items()}:
                return prefix
    return ""


def _advice(content: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Say what to do: names that are shifted by a prefix are another mistake than weights of another network."""
    for one, other, what in ((content, wanted, "those of the file"), (wanted, content, "those of the class")):
        for name in other:
            longer = next((each for each in one if each.endswith("." + name)), None)
            if longer is not None:
                prefix = longer.removesuffix(name)
                return f"; {what} begin with {prefix!r}: save the state_dict of the class itself, or name that class"
    return "; give the weights or the arguments that belong together"


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
