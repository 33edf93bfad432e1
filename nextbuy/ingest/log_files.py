"""Which files the paths and globs of a command stand for."""

import glob
from collections.abc import Sequence
from pathlib import Path

from nextbuy.errors import NextbuyError


def find_files(logs: Sequence[str | Path]) -> list[Path]:
    """Every file that the paths and globs stand for, each once, in order of path.

    Raises:
        NextbuyError: a path or glob stands for no file.
    """
    files: set[Path] = set()
    for log in logs:
        if Path(log).is_dir():
            raise NextbuyError(f"{log} is a folder. Name its files, for example '{log}/*.csv'.")
        paths = [str(log)] if Path(log).exists() else _matches(str(log))
        matches = [Path(path) for path in paths if Path(path).is_file()]
        if not matches:
            raise NextbuyError(f"There is no file {log}. Check the path or the glob.")
        files.update(matches)
    return sorted(files)


def _matches(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)  # noqa: PTH207  # Path takes no absolute pattern
