"""Which local command stands for which image.

An image is recognised by the last part of its repository, whatever the registry and tag, so that the names of a real
installation work unchanged.
"""

import os
import shlex
import threading
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from crds.contract.versions import split_image
from sandbox.layout import ROOT, TOOLS, VENV_BIN

STAND_INS: Final = ROOT / "sandbox" / "standins" / "br"
LAUNCHERS: Final = TOOLS.parent / "launchers"
"""Scripts that run a tool, in the place of the tool in its own image: an init container copies what its image brings, and to
copy 140 MB takes longer than most Pods run."""


class ImageError(Exception):
    """No such image here: the container stays waiting with ``ErrImagePull``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What an image becomes: its *entrypoint*, and *files* (path in the container -> local file) it brings along."""

    pattern: str
    entrypoint: tuple[str, ...] = ()
    files: dict[str, Path] = field(default_factory=dict)


def _tools(*names: str) -> dict[str, Path]:
    return {f"/{name}": TOOLS / name for name in names}


def _launched(name: str) -> dict[str, Path]:
    return {f"/{name}": LAUNCHERS / name}


IMAGES: Final = (
    Image(
        pattern="*backup-manager*", entrypoint=(str(VENV_BIN / "backup-manager"),), files=_tools("dumpling", "tidb-lightning")
    ),
    Image(pattern="br", entrypoint=("/br",), files=_launched("br")),
    Image(pattern="dumpling", entrypoint=("/dumpling",), files=_launched("dumpling")),
    Image(pattern="tidb-lightning", entrypoint=("/tidb-lightning",), files=_launched("tidb-lightning")),
    # Stand-ins, named as such, for what the real tools cannot do here; see sandbox/standins/br.
    Image(pattern="stand-in-br", entrypoint=("/br",), files={"/br": STAND_INS / "br.py"}),
    Image(pattern="stand-in-tikv", entrypoint=("/tikv-ctl",), files={"/tikv-ctl": STAND_INS / "tikv_ctl.py"}),
    # Whatever the machine has: for Jobs of tests.
    Image(pattern="busybox"),
)


def find_image(image: str) -> Image:
    """The local form of *image*. Raises ImageError, naming what is known."""
    repository = split_image(image).repository.rpartition("/")[2]
    found = next((known for known in IMAGES if fnmatch(repository, known.pattern)), None)
    if found is None:
        known = ", ".join(candidate.pattern for candidate in IMAGES)
        raise ImageError(f"the sandbox has no image {image!r}; it maps {known} (sandbox/standins/kubelet/images.py)")
    missing = [path.name for path in found.files.values() if not _source(path).exists()]
    if missing:
        raise ImageError(f"image {image!r} needs {', '.join(missing)} in .tools/bin; run: make tools")
    for path in found.files.values():
        if path.parent == LAUNCHERS:
            _write_launcher(path)
    return found


def _source(path: Path) -> Path:
    return TOOLS / path.name if path.parent == LAUNCHERS else path


def _write_launcher(path: Path) -> None:
    """Put it there, unless it is; whoever starts it at the same moment finds a whole one."""
    text = f'#!/bin/sh\nexec {shlex.quote(os.path.realpath(_source(path)))} "$@"\n'
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
    draft.write_text(text)
    draft.chmod(0o755)
    draft.replace(path)
