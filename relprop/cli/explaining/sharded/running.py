"""A run over all shards, in this process or spread over several."""

from __future__ import annotations

import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from relprop.cli.explaining.sharded.folder import ShardedFolder
from relprop.cli.explaining.sharded.index import count_pictures
from relprop.cli.explaining.sharded.work import Explained, ExplainingWork, Facts, PictureShard
from relprop.engines.machine import places
from relprop.engines.processes import open_processes
from relprop.errors import RelpropWarning
from relprop.evaluation.pipeline.interrupts import delayed_interrupts
from relprop.evaluation.pipeline.progress import shown
from relprop.evaluation.pipeline.standing import Standing

Tell = Callable[[int, float], None]
_Outcomes = Iterator[tuple[PictureShard, Explained]]


class _Here:
    """Work done in this process."""

    def __init__(self, work: ExplainingWork) -> None:
        self._work = work
        self._loaded = work.load(work.subject.device)
        self.facts = work.begin(self._loaded)

    def run(self, shards: Sequence[PictureShard], tell: Tell) -> _Outcomes:
        """Do shards one after the other."""
        for shard in shards:
            yield shard, self._work.run(self._loaded, shard, partial(tell, shard.part))


class _Spread:
    """Work done by the processes of an engine."""

    def __init__(self, workers: Any, obey: Callable[[], None]) -> None:
        self._workers, self._obey = workers, obey
        self.facts: Facts = workers.begin(obey)

    def run(self, shards: Sequence[PictureShard], tell: Tell) -> _Outcomes:
        """Do shards, several at once; remarks of workers are told once."""
        remarks = Counter[str]()
        for shard, outcome in self._workers.run(shards, tell, self._obey):
            for text in outcome.warnings:
                if not remarks[text]:
                    warnings.warn(text, RelpropWarning, stacklevel=2)
                remarks[text] += 1
            yield shard, outcome.result


def explain_into_shards(
    work: ExplainingWork,
    pictures: Sequence[Path],
    folder: ShardedFolder,
    *,
    processes: Any = None,
    progress: bool = True,
    overwrite: bool = False,
    at_first: Callable[[], object] = lambda: None,
    tell_failure: Callable[[str], None] = lambda message: None,
) -> str:
    """Explain pictures into shards with one index, and return how far the maps can be trusted, in words.

    Parameters
    ----------
    work : ExplainingWork
        What is explained, how, and how it is stored.
    pictures : sequence of Path
        None twice.
    folder : ShardedFolder
        Where shards go; nobody else writes there. A run that was begun there goes on.
    processes : int or {"gpus", "auto"}, optional
        Workers; None: this process alone.
    progress : bool
        Whether to tell how far the run is.
    overwrite : bool
        Whether an earlier run goes.
    at_first : callable
        Called once the run is begun.
    tell_failure : callable
        Called with a message for each picture that fails.

    Raises
    ------
    KeyboardInterrupt
        A signal stopped it; what was computed is committed, and the same call goes on.
    RelpropError
        Something can't be loaded, written, or was begun otherwise.
    """
    size = work.storage.shard_size
    starts = range(0, len(pictures), size)
    shards = [
        PictureShard(
            part,
            len(starts),
            folder.path / work.storage.shard_name(part),
            folder.working(part),
            folder.rows(part),
            first,
            tuple(pictures[first : first + size]),
        )
        for part, first in enumerate(starts)
    ]
    with _opened(work, processes, len(shards)) as engine:
        config = work.config(engine.facts, pictures)
        if overwrite:
            folder.clear()
        folder.settle(config)
        at_first()
        whole = folder.index.exists()
        left = [shard for shard in shards if not (whole or (shard.rows.exists() and shard.path.exists()))]
        open_parts = {shard.part for shard in left}
        done = Counter({shard.part: len(shard.pictures) for shard in shards if shard.part not in open_parts})
        found: list[Explained] = []
        standing = Standing()
        with shown(progress, standing) as report:

            def tell(part: int, count: float) -> None:
                done[part] = int(count)
                report(done.total(), len(pictures))

            for shard, explained in engine.run(left, tell):
                found.append(explained)
                standing.failed += len(explained.failures)
                tell(shard.part, len(shard.pictures))
                for message in explained.failures:
                    tell_failure(message)
    folder.join(len(shards))
    return _summary(folder, engine.facts, found, len(shards))


def failed_pictures(folder: ShardedFolder) -> int:
    """Return how many pictures of a run that is whole failed."""
    return count_pictures(folder.index)[1]


@contextmanager
def _opened(work: ExplainingWork, processes: Any, shards: int) -> Iterator[_Here | _Spread]:
    if processes is None:
        yield _Here(work)
        return
    seats = places(processes, work.subject.device)[:shards]
    with delayed_interrupts() as interruption, open_processes(pickle.dumps(work), seats) as workers:
        yield _Spread(workers, interruption.obey)


def _summary(folder: ShardedFolder, facts: Facts, found: Sequence[Explained], shards: int) -> str:
    explained, failed = count_pictures(folder.index)
    rows = {"pictures explained": str(explained)}
    if errors := [one.conservation for one in found if one.conservation is not None]:
        rows["conservation error"] = f"{max(errors):.1e} (worst)"
    if oracles := [one.oracle for one in found if one.oracle is not None]:
        rows["capture verified"] = f"gradients differ from autograd's by {max(oracles):.1e}"
    rows["weights"] = facts.weights
    if facts.assumed:
        rows["preprocessing"] = facts.assumed
    rows["shards"] = str(shards)
    rows["index"] = str(folder.index)
    rows["pictures failed"] = str(failed)
    return "\n".join(f"{name:<24}{value}" for name, value in rows.items())
