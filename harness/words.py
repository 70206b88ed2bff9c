"""A stranger's command, as typed: split, resolved, and what it needs of the host's files."""

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from holdfast.sandbox import BadInputError, Host

__all__ = ["absolute_words", "folders_of", "split_words"]


def split_words(text: str, *, option: str) -> tuple[str, ...]:
    """Split by the shell's rules of quoting, without a shell; raises `BadInputError` naming the option."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise BadInputError(f"`{option}` cannot be split: {str(error).lower()}") from None
    if not words:
        raise BadInputError(f"`{option}` is empty")
    return words


def absolute_words(words: Sequence[str]) -> tuple[str, ...]:
    """The same command from any working directory: the program by PATH, files that are here by their whole path."""
    program = shutil.which(words[0]) or words[0]
    rest = [
        str(Path(word).absolute()) if "/" in word and Path(word).is_file() else word for word in words[1:]
    ]
    return (str(Path(program).absolute()) if "/" in program else program, *rest)


def folders_of(words: Sequence[str], host: Host) -> tuple[str, ...]:
    """What a put-together root must show for a command: the folder of each file that it names.

    Never the home itself, or a folder above it: of a file there only the file.
    """
    home = Path(host.home)
    found = []
    for word in words:
        path = Path(word)
        if not path.is_absolute() or not path.is_file():
            continue
        # A link is followed, for what it points to must be there as well.
        for each in dict.fromkeys((path, path.resolve())):
            private = each.parent == home or each.parent in home.parents
            found.append(str(each if private else each.parent))
    return tuple(dict.fromkeys(found))
