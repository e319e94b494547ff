"""The metric ``code_eval`` that lm-eval's HumanEval and MBPP ask the library ``evaluate`` for, run in the sandbox.

The library would fetch it from the hub and run model-written programs on the machine itself. This one has the same
call and the same meaning (program, line feed, test; all of it must run to the end) and keeps why a program failed.
What a program could still do to pass without solving its task stands in ``adg/sandbox/host.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from adg.errors import BadMeasurement
from adg.progress import progress
from adg.sandbox.host import Limits, Outcome, Sandbox

NAME = "code_eval"


class CodeEval:
    """``compute`` is what the tasks call, one item at a time; ``prefetch`` runs many programs side by side before.

    lm-eval imports each task's module once a process and keeps the metric it found then, so there is one instance
    (``METRIC``) whose sandbox is set for the time of an evaluation (``confined``).
    """

    def __init__(self) -> None:
        self._sandbox: Sandbox | None = None
        self._workers = 0
        self._limits = Limits()
        self._outcomes: dict[tuple[str, str], Outcome] = {}

    @contextmanager
    def confined(self, sandbox: Sandbox, workers: int = 0, limits: Limits = Limits()) -> Iterator[None]:
        """Run programs in ``sandbox`` meanwhile, ``workers`` at a time (0 = one a core)."""
        self._sandbox, self._workers, self._limits = sandbox, workers, limits
        try:
            yield
        finally:
            self._sandbox, self._outcomes = None, {}

    def prefetch(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Run (program, test) pairs side by side and keep what came out for ``compute``."""
        wanted = [pair for pair in dict.fromkeys(pairs) if pair not in self._outcomes]
        with progress(len(wanted), "running programs", "programs") as bar:
            lock = threading.Lock()

            def done() -> None:
                with lock:
                    bar.update(1)

            outcomes = self._confined_by().map(wanted, self._workers, self._limits, done)
        self._outcomes.update(zip(wanted, outcomes, strict=True))

    def outcome(self, program: str, test: str) -> Outcome:
        """What came of one program; run now unless it was before."""
        if (program, test) not in self._outcomes:
            self._outcomes[program, test] = self._confined_by().run(program, test, self._limits)
        return self._outcomes[program, test]

    def compute(
        self,
        *,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
        num_workers: int = 4,
        timeout: float = 3.0,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """``({"pass@k": ...}, {task: [(candidate, {"task_id", "passed", "result", "completion_id"})]})``.

        As the original: pass@k is the unbiased estimate over the candidates of each task, given where every task
        has at least k of them. ``num_workers`` and ``timeout`` are the sandbox's own here.
        """
        results: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        for task, (test, candidates) in enumerate(zip(references, predictions, strict=True)):
            rows = []
            for number, program in enumerate(candidates):
                outcome = self.outcome(program, test)
                result = "passed" if outcome.passed else f"failed: {outcome.error}"
                rows.append(
                    (number, {"task_id": task, "passed": outcome.passed, "result": result, "completion_id": number})
                )
            results[task] = rows
        counts = [(len(rows), sum(row["passed"] for _, row in rows)) for rows in results.values()]
        scores = {
            f"pass@{n}": sum(pass_at(n, *count) for count in counts) / len(counts)
            for n in k
            if counts and all(total >= n for total, _ in counts)
        }
        return scores, results

    def _confined_by(self) -> Sandbox:
        if self._sandbox is None:
            raise BadMeasurement(
                "a model-written program was to be run outside of an evaluation with consent "
                "(exec.run_model_code=true) and a sandbox; nothing was run"
            )
        return self._sandbox


def pass_at(k: int, total: int, correct: int) -> float:
    """Chance that ``k`` of ``total`` candidates hold a correct one, 1 - C(total - correct, k) / C(total, k)."""
    missed = 1.0
    for i in range(total - correct + 1, total + 1):
        missed *= max(0.0, 1.0 - k / i)
    return 1.0 - missed


METRIC = CodeEval()


@contextmanager
def installed() -> Iterator[None]:
    """``evaluate.load("code_eval")`` gives ``METRIC`` meanwhile; other names load as ever."""
    import evaluate

    original = evaluate.load

    def load(path: str, *args: Any, **kwargs: Any) -> Any:
        return METRIC if path == NAME else original(path, *args, **kwargs)

    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = original
