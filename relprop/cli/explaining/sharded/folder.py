"""The folder of a run whose maps go to shards: what the run is, which shards are done, and the index of all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relprop.cli.explaining.folder import take_folder
from relprop.cli.explaining.sharded.index import join_parts
from relprop.cli.explaining.sharded.storage import ENDINGS
from relprop.files import OutputError, written_whole
from relprop.store.config import differences, format_differences
from relprop.versions import versions

FORMAT, FORMAT_VERSION = "relprop-maps", 1
_LOCK = "run.lock"


@dataclass(frozen=True)
class ShardedFolder:
    """Where shards and their index lie, and until they are whole what leads there.

    Parameters
    ----------
    path : Path
        The folder.
    """

    path: Path

    @property
    def index(self) -> Path:
        """The index of all; it is there once all shards are."""
        return self.path / "index.parquet"

    @property
    def run(self) -> Path:
        """What the run is, as JSON."""
        return self.path / "run.json"

    @property
    def parts(self) -> Path:
        """The folder of what is under way."""
        return self.path / "parts"

    def working(self, number: int) -> Path:
        """Return the file that a shard is collected in."""
        return self.parts / f"{number:06}.tar"

    def rows(self, number: int) -> Path:
        """Return the part of the index for a shard; it is there once the shard is whole."""
        return self.parts / f"{number:06}.parquet"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and keep other runs from it; what is empty in the end goes again.

        Raises
        ------
        OutputError
            Another run is at it; or it can't be made.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        with take_folder(self.path, self.parts / _LOCK):
            try:
                yield
            finally:
                if not any(self.parts.glob("[0-9]*")):
                    (self.parts / _LOCK).unlink(missing_ok=True)
                    for folder in (self.parts, *made):
                        if not any(folder.iterdir()):
                            folder.rmdir()

    def clear(self) -> None:
        """Remove the shards of an earlier run, and its index."""
        for ending in ENDINGS.values():
            for path in self.path.glob(f"shard-[0-9]*{ending}"):
                path.unlink()
        for path in (self.index, self.run, *self.parts.glob("[0-9]*")):
            path.unlink(missing_ok=True)

    def settle(self, config: Mapping[str, Any]) -> bool:
        """Begin a run, or see that the one that was begun is the same; return whether it was begun before.

        Raises
        ------
        OutputError
            Another one was begun here, naming what differs.
        """
        if not self.run.exists():
            there = [path.name for ending in ENDINGS.values() for path in self.path.glob(f"shard-[0-9]*{ending}")]
            if there:
                raise OutputError(
                    f"{self.path} holds {there[0]}, and no run.json that says of which run: pass <overwrite>, or name "
                    "another folder",
                    overwrite="True",
                )
            content = {"format": FORMAT, "format_version": FORMAT_VERSION, "config": config, "versions": versions()}
            with written_whole(self.run, new=True) as part:
                part.write_text(json.dumps(content, indent=2), encoding="utf-8")
            return False
        found = differences(self.config(), json.loads(json.dumps(config)))
        if found:
            words = format_differences(found, "there", "now")
            raise OutputError(
                f"{self.path} was begun with other options: {words}. Pass <overwrite>, or name another folder",
                overwrite="True",
            )
        return True

    def config(self) -> Any:
        """Return the configuration of the run that was begun here.

        Raises
        ------
        OutputError
            It can't be read.
        """
        try:
            content = json.loads(self.run.read_text(encoding="utf-8"))
            if (content["format"], content["format_version"]) != (FORMAT, FORMAT_VERSION):
                raise ValueError(f"its format is {content['format']} {content['format_version']}")
            return content["config"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{self.run} is not what a run with shards writes ({error}): pass <overwrite>, or name another folder",
                overwrite="True",
            ) from error

    def join(self, shards: int) -> None:
        """Write the index of all shards, and remove what led there."""
        if not self.index.exists():
            join_parts([self.rows(number) for number in range(shards)], self.index)
        for path in self.parts.glob("[0-9]*"):
            path.unlink()
