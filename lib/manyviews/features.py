"""Features of a folder of pictures, by the trained network of a finished run."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manyviews.config.errors import Arguments, command
from manyviews.config.files import replacing
from manyviews.config.schema import ConfigError
from manyviews.data import images
from manyviews.export import load_network, read_config
from manyviews.probes.features import extract_features


def write_features(folder: Path, pictures: Path, out: Path) -> None:
    """Write what the probes would read of each picture.

    Args:
        folder: of a finished run; pictures are made square and of its size as it was configured (data.fit).
        pictures: a folder, of which all pictures in it and below are read.
        out: .npz to write or replace: `features` (N, D) float32, and `files` (N,), their paths; `left_out`
            (M, 2), paths and reasons of the files that could not be used.
    Raises:
        ConfigError: no run, or one without weights; no pictures, or none that can be used; no .npz.
    """
    if out.suffix != ".npz":
        raise ConfigError(f"{out}: its name must end with .npz")
    config = read_config(folder)
    backbone = load_network(folder, config).backbone
    if not pictures.is_dir():
        raise ConfigError(f"{pictures}: no such folder; give one with pictures in it")
    files = images.list_pictures(pictures)
    if not files:
        raise ConfigError(f"{pictures}: no files in it; give a folder with pictures")
    built = images.follow(
        [("", files, [("all", 0, None)])],
        [],
        [],
        pictures,
        config.data,
        fix="give a folder with pictures in it",
        named=f"`left_out` in {out.name} names each",
    )
    parts = [extract_features(backbone, piece.as_tensor())["fc"].numpy() for _, piece in built.pieces]
    used = [row["file"] for row in built.manifest if not row["left_out"]]
    left_out = [(row["file"], row["left_out"]) for row in built.manifest if row["left_out"]]
    of_files = {"files": np.array(used), "left_out": np.array(left_out, dtype=str).reshape(-1, 2)}
    with replacing(out) as new, new.open("wb") as file:
        np.savez(file, features=np.concatenate(parts), **of_files)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what the command line names; see config.errors.command for the exit status."""
    parser = Arguments(prog="python -m manyviews.features", description=__doc__)
    parser.add_argument("folder", metavar="RUN_FOLDER", type=Path, help="such as results/demo/baseline/seed0")
    parser.add_argument("pictures", metavar="FOLDER", type=Path, help="of pictures, in it and below")
    parser.add_argument("out", metavar="OUT.npz", type=Path, help="file to write")

    def work() -> int:
        options = parser.parse_args(arguments)
        write_features(options.folder.resolve(), options.pictures.resolve(), options.out.resolve())
        print(f"Features: {options.out.resolve()}")
        return 0

    return command(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
