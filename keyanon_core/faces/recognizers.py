"""Which recognizers judge a result, as a command line names them and an actor loads them."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from keyanon_core.errors import FaceModelError
from keyanon_core.faces.detection import Embedder

EMBEDDED, MIRRORED = "embedded", "embedded-mirrored"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True)
class RecognizerChoice:
    """One recognizer: the embedded one, the same in a mirror, or an ONNX file with a preset. Loads no network until asked.

    expected: digest that `load` insists on, of a resumed run or of the machine that chose; "" for any.
    """

    name: str
    file: Path | None = None
    preset: str = ""
    expected: str = ""

    @classmethod
    def parse(cls, text: str) -> "RecognizerChoice":
        """Of `embedded`, `embedded-mirrored`, or `NAME=FILE[:PRESET]`; without a preset, NAME is one. Raises FaceModelError."""
        from keyanon_core.faces.onnx_recognizer import PRESETS

        if text in (EMBEDDED, MIRRORED):
            return cls(text)
        name, _, rest = text.partition("=")
        file, _, preset = rest.rpartition(":")
        if preset not in PRESETS or not file:
            file, preset = rest, name
        if not _NAME.fullmatch(name) or name in (EMBEDDED, MIRRORED) or not file:
            raise FaceModelError(
                f"{text!r} names no recognizer: give {EMBEDDED}, {MIRRORED} or NAME=FILE[:PRESET], NAME of small letters, digits "
                "and -, at most 32"
            )
        if preset not in PRESETS:
            raise FaceModelError(
                f"recognizer {text!r}: how is it shown a face? Add a preset, {name}={file}:PRESET, one of {', '.join(PRESETS)}"
            )
        return cls(name, Path(file), preset)

    def pinned(self) -> "RecognizerChoice":
        """The same, and `load` insists on the file as it is now. Reads it, loads nothing. Raises FaceModelError."""
        return replace(self, expected=self.digest())

    def digest(self) -> str:
        """sha256 of the weights, as the recognizer has it. Raises FaceModelError when the file can not be read."""
        from keyanon_core.faces.dlib_models import RECOGNIZER, SHA256

        if self.file is None:
            return SHA256[RECOGNIZER]
        try:
            with self.file.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise FaceModelError(f"recognizer {self.name}: {self.file} can not be read: {error.strerror}") from error

    def load(self, threads: int = 1, device: str = "cpu") -> Embedder:
        """threads: of an ONNX file's network, on the CPU; device: of the embedded network. Raises FaceModelError, DeviceError."""
        loaded = self._load(threads, device)
        if self.expected and loaded.digest != self.expected:
            raise FaceModelError(
                f"recognizer {self.name}: {self.file or 'the embedded network'} has sha256 {loaded.digest}, and this evaluation "
                f"began with {self.expected}; give that file, or an empty output"
            )
        return loaded

    def _load(self, threads: int, device: str) -> Embedder:
        if self.file is not None:
            from keyanon_core.faces.onnx_recognizer import OnnxRecognizer

            return OnnxRecognizer(self.name, self.file, self.preset, threads)
        from keyanon_core.faces.mirrored import Mirrored
        from keyanon_core.faces.recognition import DlibRecognizer

        return Mirrored(DlibRecognizer(device=device)) if self.name == MIRRORED else DlibRecognizer(device=device)


def chosen_recognizers(texts: Sequence[str]) -> list[RecognizerChoice]:
    """The embedded recognizer, its mirrored view, and those of the command line. Raises FaceModelError, also for a name given
    twice.
    """
    choices = [RecognizerChoice.parse(text) for text in dict.fromkeys([EMBEDDED, MIRRORED, *texts])]
    names = [choice.name for choice in choices]
    for name in names:
        if names.count(name) > 1:
            raise FaceModelError(f"two recognizers are called {name}; give one of them another name")
    return choices
