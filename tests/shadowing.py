"""A user's working directory that holds packages with the names of the product's folders."""

from pathlib import Path

NAMES = ("assets", "conf", "launch", "pipeline", "stages")


def shadow(folder: Path) -> None:
    """Makes a package of each name in `folder`. Each raises an error when it is imported."""
    for name in NAMES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('a package of the user was imported: {name}')\n")
