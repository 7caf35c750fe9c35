"""What clips are called whose rows say so: each is to be a file of the output, with another beside it."""

from typing import Final

from jobs.names import CLIP_FACTS_SUFFIX, NO_TEXT, is_text, name_problem, suffix_of
from jobs.sources.source import id_problem

PIECE_NAME: Final = "000000000"  # of a clip's pieces, as long as all of them


class ClipNames:
    """What the clips of an input are called; the first one of a name has it."""

    def __init__(self) -> None:
        self._rows: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._folders: set[str] = set()

    def problem(self, name: str, image_id: str = "") -> str:
        """Why another clip can not be called so, or "". image_id: of which its name was made."""
        if (row := self._ids.get(image_id) or self._rows.get(name)) is not None:
            return f"duplicate_id: {row} has the same id, or one that makes the same name"
        above = [one.removesuffix(CLIP_FACTS_SUFFIX) for one in _folders_of(name)] + _folders_of(name)
        if any(one in self._rows for one in above) or not self._folders.isdisjoint((name, name + CLIP_FACTS_SUFFIX)):
            return "output_clash: another clip or its folder has the name this clip's output would get"
        return ""

    def take(self, name: str, row: str, image_id: str = "") -> str:
        """The name, or one like it that is free. row: which has it."""
        if image_id:
            self._ids[image_id] = row
        while self.problem(name):
            name = name.replace("/", "~") + "~"
        self._rows[name] = row
        self._folders.update(_folders_of(name))
        return name


def clip_id_problem(image_id: str | None) -> str:
    """Why no clip can have this id; "" when one can."""
    if image_id is None:
        return "missing_id: the id column is null here"
    if not is_text(image_id):
        return f"bad_id: the id is {NO_TEXT}"
    problem = name_problem(image_id)
    return id_problem(image_id) or (f"bad_id: no output file can be named by its id, {problem}" if problem else "")


def piece_problem(name: str) -> str:
    """Why the pieces of a clip of this name could have no key records; "" when they can."""
    return id_problem(f"{name}/{PIECE_NAME}{suffix_of(name)}")


def _folders_of(name: str) -> list[str]:
    return [name[:at] for at, character in enumerate(name) if character == "/"]
