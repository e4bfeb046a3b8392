"""The mass of relevance: how much there is at every cut of the graph, and what was lost where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from relprop.printed import Printed

DEVIATION = 1e-3
"""A mass that is further from one than this is no rounding, not even in half precision."""
HOOK = "hook"
"""Stands for the operation at the cut behind a hook."""


@dataclass(frozen=True)
class Cut:
    """The cut of the graph behind one operation, or one hook (towards the input); its tensors are on the CPU.

    Parameters
    ----------
    name, path, operation, rule : str
        The operation's name in the program, its module path, ATen operation and rule; of a hook ``"hook"`` is the
        operation, and the rule the name of its function.
    mass : Tensor
        ``(S, B)``, sum of all relevance on this cut over that at the output. Where target and contrast are one seed,
        of both signs, here and of what is lost it is over the magnitude of that seed: its sum may be nothing.
    factor : Tensor
        ``(S, B)``, mass the rule handed on before rescaling over the mass that arrived.
    lost : Tensor
        ``(S, B)``, mass lost at this operation; what a hook took away (negative where it added).
    suspect : str
        Why the rule seems to delete relevance; empty if it does not.
    conserves : bool
        Whether the rule hands on the mass that arrives. What another one's bias and stabiliser absorb counts as lost.
    """

    name: str
    path: str
    operation: str
    rule: str
    mass: Tensor
    factor: Tensor
    lost: Tensor
    suspect: str = ""
    conserves: bool = True


@dataclass(frozen=True, eq=False, repr=False)
class Conservation(Printed):
    """Where the relevance went: one row per cut, from the output to the source.

    Parameters
    ----------
    trace : callable
        Follows the mass and returns the cuts. It is called at the first use of ``cuts``: following takes as long as a
        hundred small operations, and most explanations need none.
    conserves : bool
        Whether every operation hands on the mass that arrives, by its rule. Where one does not, what its bias and
        stabiliser absorb counts as lost there (negative where they add to it): see `Cut.conserves`.
    at_output : Tensor
        ``(S, B)``, mass at the output, in the unit of the cuts: one, but where one seed has both signs. ``(1, 1)``
        where nothing is measured.
    signed : bool
        Whether target and contrast are one seed, so that all masses are over its magnitude.
    """

    trace: Callable[[], tuple[Cut, ...]] = field(repr=False)
    conserves: bool = True
    at_output: Tensor = field(default_factory=lambda: torch.ones(1, 1), repr=False)
    signed: bool = False

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """The cuts; empty under rule sets that neither conserve mass nor measure it."""
        return self.trace()

    def take(self, samples: slice) -> Conservation:
        """Return that of some samples."""

        def traced() -> tuple[Cut, ...]:
            return tuple(
                replace(cut, mass=cut.mass[:, samples], factor=cut.factor[:, samples], lost=cut.lost[:, samples])
                for cut in self.cuts
            )

        at_output = self.at_output if self.at_output.shape[1] == 1 else self.at_output[:, samples]
        return Conservation(traced, self.conserves, at_output, self.signed)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is found and not what finds it, so that it can be pickled."""
        at_output = self.at_output.cpu()
        return {"cuts": self.cuts, "conserves": self.conserves, "at_output": at_output, "signed": self.signed}

    @property
    def masses(self) -> Tensor:
        """Mass at every cut over the mass at the output, ``(cuts, S, B)``."""
        return torch.stack([cut.mass for cut in self.cuts]) if self.cuts else torch.empty(0, 0, 0)

    @property
    def lost(self) -> float:
        """Largest share of a seed's mass that was lost on the way, counted over all operations but not hooks."""
        lost = [cut.lost for cut in self.cuts if cut.operation != HOOK]
        return float(sum(lost).abs().max()) if lost else 0.0  # type: ignore[union-attr]

    @property
    def errors(self) -> Tensor:
        """Largest deviation of a cut's mass from the output's in each sample, losses and hooks' work back, ``(B,)``."""
        return self._deviations().amax((0, 1)) if self.cuts else torch.empty(0)

    @property
    def error(self) -> float:
        """Largest of the ``errors``; NaN if nothing is conserved or measured."""
        return float(self.errors.max()) if self.cuts else float("nan")

    def _deviations(self) -> Tensor:
        """Return how far the mass of each cut is from the output's, ``(cuts, S, B)``, losses added back."""
        lost = torch.stack([cut.lost for cut in self.cuts]).cumsum(0)
        return (self.masses + lost - self.at_output.cpu()).abs()

    @property
    def losses(self) -> tuple[Cut, ...]:
        """The cuts at which an operation lost mass."""
        return tuple(cut for cut in self.cuts if cut.operation != HOOK and bool((cut.lost != 0).any()))

    @property
    def masked(self) -> tuple[Cut, ...]:
        """The cuts at which a hook took mass away or added some."""
        return tuple(cut for cut in self.cuts if cut.operation == HOOK and bool((cut.lost != 0).any()))

    @property
    def suspects(self) -> tuple[Cut, ...]:
        """The cuts at which a rule seems to delete relevance, whatever rescaling made of it."""
        return tuple(cut for cut in self.cuts if cut.suspect)

    @property
    def mixed(self) -> bool:
        """Whether some operations hand on the mass that arrives, and others do not."""
        kinds = {cut.conserves for cut in self.cuts if cut.rule and cut.operation != HOOK}
        return len(kinds) > 1

    def _blocks(self) -> list[str]:
        if not self.conserves:
            return self._absorption() if self.cuts else ["conservation: this rule set does not conserve mass"]
        lines = [
            f"conservation: {len(self.cuts)} cuts, largest error {self.error:.1e}, lost {self.lost:.1e} of the mass"
        ]
        deviating = (self._deviations().amax((1, 2)) > DEVIATION).nonzero()
        if len(deviating):
            cut = self.cuts[int(deviating[0])]
            lines.append(f"  the mass deviates from {cut.name} ({cut.operation}) on: see the rules just behind it")
        lines += [f"  lost {float(cut.lost.max()):.1e} at {cut.name} ({cut.operation})" for cut in self.losses]
        return [*lines, *self._mask_lines(), *self._suspect_lines()]

    def _absorption(self) -> list[str]:
        reached, started = self.masses[-1], self.at_output
        operations = [cut for cut in self.cuts if cut.rule and cut.operation != HOOK]
        how = "not rescaled"
        if self.mixed:
            kept = sum(cut.conserves for cut in operations)
            how = (
                f"{kept} of {len(operations)} operations hand on all that arrives, largest error {self.error:.1e}; the "
                "others are not rescaled"
            )
        most = max((cut for cut in self.cuts if cut.operation != HOOK), key=lambda cut: float(cut.lost.abs().max()))
        if self.signed:
            line = (
                f"conservation: {how}; one seed of both signs, over whose magnitude masses are told: "
                f"{float(started.min()):.1%} to {float(started.max()):.1%} at the output, "
                f"{float(reached.min()):.1%} to {float(reached.max()):.1%} at the source; biases and stabilisers make "
                f"the difference, most of it {most.name} ({most.operation})"
            )
            return [line, *self._mask_lines(), *self._suspect_lines()]
        line = (
            f"conservation: {how}; {float(reached.min()):.1%} to {float(reached.max()):.1%} of the output's "
            f"relevance reaches the source, biases and stabilisers absorb the rest, most of it {most.name} "
            f"({most.operation})"
        )
        return [line, *self._mask_lines(), *self._suspect_lines()]

    def _suspect_lines(self) -> list[str]:
        return [f"  suspect: {cut.name} ({cut.operation}): {cut.suspect}" for cut in self.suspects]

    def _mask_lines(self) -> list[str]:
        lines = []
        for cut in self.masked:
            changed = float(cut.lost.flatten()[cut.lost.abs().argmax()])
            what = f"{changed:.1e} of the mass taken away" if changed > 0 else f"{-changed:.1e} of the mass added"
            lines.append(f"  masked at {cut.path or cut.name}: {what} by the hook {cut.rule}")
        return lines
