"""The README's tree names every file of the code, each with a caption."""

import re
import subprocess

from nextbuy.settings import PROJECT

LISTED = ("nextbuy", "feature_repo", "generators", "training", "bento", "monitoring")
"""Folders whose files are listed; the others have one line each."""


def tree():
    """path -> caption, as the README has them; a folder's path ends with a slash."""
    text = (PROJECT / "README.md").read_text()
    block = text.split("<!-- tree -->\n```text\n")[1].split("```\n<!-- /tree -->")[0]
    captions, folders = {}, []
    for line in block.splitlines():
        indent, name, caption = re.fullmatch(r"( *)(\S+) *(.*)", line).groups()
        depth = len(indent) // 2
        path = "".join(folders[:depth]) + name
        assert path not in captions, f"{path} is in the tree twice"
        captions[path] = caption
        if name.endswith("/"):
            folders[depth:] = [name]
    return captions


def on_disk():
    """The files of the code with their folders, and the other folders, as Git has them.

    A folder's line stands for its `__init__.py`.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    files = [name for name in listed.stdout.split() if (PROJECT / name).exists()]
    paths = set()
    for name in files:
        *above, file = name.split("/")
        if not above or name.startswith("."):
            continue
        if above[0] not in LISTED:
            paths.add(f"{above[0]}/")
            continue
        paths |= {"/".join(above[:depth]) + "/" for depth in range(1, len(above) + 1)}
        if file != "__init__.py":
            paths.add(name)
    return paths


def test_the_tree_is_what_is_on_the_disk():
    captions, paths = tree(), on_disk()
    assert not sorted(paths - captions.keys()), "in no line of the README's tree"
    assert not sorted(captions.keys() - paths), "in the README's tree, but not on the disk"


def test_every_line_has_a_caption():
    captions = tree()
    assert not [path for path, caption in captions.items() if len(caption) < 5]
    assert not [caption for caption in captions.values() if len(caption) > 80]
