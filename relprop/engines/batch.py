"""Which part of a run a task of a batch system does: as Slurm or torchrun says in its environment."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from relprop.engines.errors import EngineError
from relprop.errors import RelpropWarning


@dataclass(frozen=True)
class Task:
    """A task of several that work on one run.

    Parameters
    ----------
    part, parts : int
        It does part ``part``, counted from 0, of ``parts``.
    local : int
        Which of the tasks on its machine it is.
    """

    part: int
    parts: int
    local: int = 0


def find_task(environment: Mapping[str, str]) -> Task:
    """Return the task that this process is.

    torchrun goes before Slurm, under which it may run. Each of the tasks that ``srun`` starts in an element of a job
    array has a part of its own.

    Parameters
    ----------
    environment : mapping
        ``os.environ``.

    Raises
    ------
    EngineError
        It says of no task, or of one that can't be understood.

    Examples
    --------
    >>> find_task({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    Task(part=5, parts=8, local=1)
    >>> find_task({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"})
    Task(part=2, parts=4, local=0)
    """
    numbers = _Numbers(environment)
    if "RANK" in environment and "WORLD_SIZE" in environment:
        task = Task(numbers["RANK"], numbers["WORLD_SIZE"], numbers.get("LOCAL_RANK", 0))
    elif "SLURM_ARRAY_TASK_ID" in environment or "SLURM_PROCID" in environment:
        element, elements = _element(numbers) if "SLURM_ARRAY_TASK_ID" in environment else (0, 1)
        number, count = _started_by_srun(numbers)
        task = Task(element * count + number, elements * count, numbers.get("SLURM_LOCALID", 0))
    else:
        raise EngineError(
            "nothing says which part --shard auto means: it is for tasks of Slurm (a job array, srun) and of torchrun; "
            "elsewhere give --shard I/N"
        )
    if not 0 <= task.part < task.parts:
        raise EngineError(f"the environment says part {task.part} of {task.parts}: give --shard I/N")
    return task


def _element(numbers: _Numbers) -> tuple[int, int]:
    """Return which element of a job array this is, and how many it has."""
    count, step = numbers["SLURM_ARRAY_TASK_COUNT"], numbers.get("SLURM_ARRAY_TASK_STEP", 1)
    first = numbers.get("SLURM_ARRAY_TASK_MIN", 0)
    last = numbers.get("SLURM_ARRAY_TASK_MAX", first + (count - 1) * step)
    place, rest = divmod(numbers["SLURM_ARRAY_TASK_ID"] - first, step)
    if rest or not 0 <= place < count or last != first + (count - 1) * step:
        raise EngineError(
            "the job array has gaps, so that its elements don't say which parts of the run they are: submit "
            "--array=0-N, or do single parts over with --shard I/N"
        )
    return place, count


def _started_by_srun(numbers: _Numbers) -> tuple[int, int]:
    """Return which task of a job step this is, and how many there are."""
    count = numbers.get("SLURM_STEP_NUM_TASKS", numbers.get("SLURM_NTASKS", 1))
    number = numbers.get("SLURM_PROCID", 0)
    if count > 1 and number == 0 and "SLURM_STEP_ID" not in numbers.environment:
        warnings.warn(
            f"this is part 0 of {count}, as SLURM_NTASKS says: start relprop with srun, or nobody does the others",
            RelpropWarning,
            stacklevel=4,
        )
    return number, count


@dataclass(frozen=True)
class _Numbers:
    """An environment, whose values are numbers."""

    environment: Mapping[str, str]

    def __getitem__(self, name: str) -> int:
        text = self.environment.get(name, "")
        if not text.isdecimal():
            raise EngineError(f"{name} must be a number, not {text!r}: give --shard I/N")
        return int(text)

    def get(self, name: str, default: int) -> int:
        return self[name] if name in self.environment else default
