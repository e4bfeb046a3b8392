"""What each process of a run does: it explains the pictures of a shard, batch by batch, and writes the shard."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from relprop.cli.cache import use_cache
from relprop.cli.choices import Choice
from relprop.cli.explaining.cropped import Joined
from relprop.cli.explaining.entries import entries_of, joined_entry
from relprop.cli.explaining.opening import Question, open_explainer
from relprop.cli.explaining.picture import InputPicture
from relprop.cli.explaining.sharded.index import write_part
from relprop.cli.explaining.sharded.shard_files import write_shard
from relprop.cli.explaining.sharded.storage import Sample, Storage, make_sample
from relprop.cli.explaining.sharded.working import WorkingFile, samples_of
from relprop.cli.explaining.stream import Run
from relprop.cli.subject import Subject
from relprop.engines.worker import Shard
from relprop.evaluation.pipeline.interrupts import delayed_interrupts
from relprop.explainer import Explainer
from relprop.explanation.captions import caution
from relprop.explanation.explanation import Explanation
from relprop.explanation.provenance import weights_sha256
from relprop.models import Classifier

Loaded = tuple[Classifier, Explainer, Choice]


@dataclass(frozen=True)
class PictureShard(Shard):
    """A shard of pictures.

    Parameters
    ----------
    working, rows : Path
        The file it is collected in, and the part of the index that is written when it is whole.
    first : int
        Number of its first picture.
    pictures : tuple of Path
        Its pictures.
    """

    working: Path
    rows: Path
    first: int
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class Facts:
    """What is known of the model once it is loaded: its name, where its weights come from, a hash of them."""

    model: str
    weights: str
    sha256: str | None
    assumed: str | None


@dataclass(frozen=True)
class Explained:
    """What became of a shard in one run; see `Run`."""

    explained: int
    failures: tuple[str, ...]
    conservation: float | None
    oracle: float | None


@dataclass(frozen=True)
class ExplainingWork:
    """A `relprop.engines.worker.Work`.

    Parameters
    ----------
    subject : Subject
        The model.
    question : Question
        What is explained.
    storage : Storage
        How maps are stored.
    crops : int or "tiles", optional
        As of `Run`.
    verify : bool
        Whether the first shard verifies the capture.
    quiet : bool
        Whether libraries are kept from talking on standard error.
    cache : bool
        Whether captured graphs are kept.
    """

    subject: Subject
    question: Question
    storage: Storage
    crops: int | Literal["tiles"] | None = None
    verify: bool = False
    quiet: bool = False
    cache: bool = True

    def load(self, device: str | None) -> Loaded:
        """Load the classifier, to a device, and make the explainer."""
        use_cache(self.cache)
        classifier = replace(self.subject, device=device).load()
        return classifier, *open_explainer(classifier, self.question)

    def begin(self, loaded: Loaded) -> Facts:
        """Say which model it is."""
        classifier, _, _ = loaded
        return Facts(classifier.name, classifier.origin, weights_sha256(classifier.model), classifier.assumed)

    def run(self, loaded: Loaded, shard: PictureShard, tell: Callable[[float], None]) -> Explained:
        """Explain what is left of a shard, and write it."""
        classifier, explainer, choice = loaded
        size = max(1, self.question.batch_size // choice.count)
        failures: list[str] = []
        with delayed_interrupts() as interruption, WorkingFile(shard.working) as working:
            results = _Results(working, shard, classifier, self.question.rules, self.storage)
            run = Run(
                *(classifier, explainer, choice, results),
                quiet=True,
                verify=self.verify and not shard.part,
                crops=self.crops,
                tell_failure=failures.append,
            )
            # Batches begin at the same pictures whatever was done before: else kernels round in another way.
            while working.done < len(shard.pictures):
                run.explain(shard.pictures[working.done : working.done + size], self.question.batch_size)
                working.commit(min(working.done + size, len(shard.pictures)))
                tell(working.done)
                interruption.obey()
            about = {"format": "relprop-maps", "model": classifier.name, "weights": classifier.origin}
            write_shard(shard.working, shard.path, self.storage, about | {"rules": self.question.rules})
            write_part(shard.rows, shard.path.name, samples_of(shard.working))
            shard.working.unlink()
        return Explained(run.explained, tuple(failures), run.conservation, run.oracle)

    def config(self, facts: Facts, pictures: Iterable[Path]) -> dict[str, Any]:
        """Return all that the shards depend on."""
        digest, count = hashlib.sha256(), 0
        for path in pictures:
            digest.update(os.fsencode(path) + b"\0")
            count += 1
        asked = self.question
        return {
            "model": {"name": facts.model, "sha256": facts.sha256, "preprocessing": self.subject.preprocessing},
            "rules": asked.rules,
            "target": list(asked.targets),
            "contrast": asked.contrast,
            "model_output": asked.model_output,
            "probability": asked.probability,
            "crops": self.crops,
            "batch_size": asked.batch_size,
            "format": self.storage.format,
            "dtype": self.storage.dtype,
            "relevance": self.storage.relevance,
            "shard_size": self.storage.shard_size,
            "pictures": {"count": count, "sha256": digest.hexdigest()},
        }


class _Results:
    """What is explained goes to the working file of a shard."""

    def __init__(
        self, working: WorkingFile, shard: PictureShard, classifier: Classifier, rules: str, storage: Storage
    ) -> None:
        self._working, self._classifier, self._rules, self._storage = working, classifier, rules, storage
        self._numbers = {path: shard.first + place for place, path in enumerate(shard.pictures)}
        self.index = shard.rows

    def fail(self, path: Path, message: str) -> None:
        """Take a picture that could not be explained, and why."""
        number = self._numbers[path]
        self._working.add(Sample(_key(number), {"number": number, "file": str(path), "error": message}, None))

    def write(self, prepared: InputPicture, explanation: Explanation) -> None:
        """Take a picture, with one sample of the explanation for each class explained."""
        maps = explanation.summed() if self._storage.relevance == "map" else explanation.relevance
        entries = entries_of(self._classifier, self._rules, prepared, explanation)
        for k, (heat, entry) in enumerate(zip(maps.float().cpu().numpy(), entries, strict=True)):
            warning = caution(explanation[k], self._classifier.labels)
            self._add(prepared.path, entry | {"caution": warning}, heat, k if len(entries) > 1 else None)

    def write_joined(self, joined: Joined) -> None:
        """Take a photograph that was explained crop by crop."""
        entry = joined_entry(self._classifier, self._rules, joined)
        self._add(joined.path, entry | {"caution": ""}, joined.heat)

    def _add(self, path: Path, entry: dict[str, Any], heat: Any, place: int | None = None) -> None:
        number = self._numbers[path]
        key = _key(number) if place is None else f"{_key(number)}-{place:02}"
        told = json.loads(json.dumps({"number": number, **entry}))
        self._working.add(make_sample(key, told, heat, self._storage.dtype))


def _key(number: int) -> str:
    return f"{number:09}"
