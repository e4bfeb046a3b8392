"""The model of a command: its options are refused early where they can't be, and it is loaded once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from relprop.cli.cache import use_cache
from relprop.cli.early import refuse_early
from relprop.cli.garbage import collect_as_usual

if TYPE_CHECKING:
    from relprop.models import Classifier


@dataclass(frozen=True)
class Subject:
    """The options that say which model is meant, see `relprop.models.load_classifier`."""

    model: str
    weights: Path | None = None
    preprocessing: str | None = None
    class_names: Path | None = None
    device: str | None = None
    trust: bool = False
    model_output: str | None = None

    def prepare(
        self,
        paths: Iterable[Path | None] = (),
        *,
        cache: bool,
        rules: str | None = None,
        targets: Iterable[str] = (),
        output: Path | None = None,
    ) -> None:
        """Refuse what can be refused before anything large is imported; then choose the cache.

        Parameters
        ----------
        paths, rules, targets, output
            See `refuse_early`.
        cache : bool
            Whether captured graphs are kept.

        Raises
        ------
        RelpropError
        """
        refuse_early([*paths, self.weights], rules=rules, targets=targets, class_names=self.class_names, output=output)
        use_cache(cache)

    def load(self) -> Classifier:
        """Load the classifier."""
        from relprop.models import load_classifier

        loaded = load_classifier(self.model, **self.options())  # type: ignore[arg-type]
        collect_as_usual()
        return loaded

    def options(self) -> dict[str, str | bool | None]:
        """Return what `load_classifier` takes beside the name, as Python spells it."""
        return {
            "weights": None if self.weights is None else str(self.weights),
            "preprocessing": self.preprocessing,
            "labels": None if self.class_names is None else str(self.class_names),
            "device": self.device,
            "trust": self.trust,
            "output": self.model_output,
        }
