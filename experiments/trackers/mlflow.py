"""MLflow: a run for each cell, on the server of MLFLOW_TRACKING_URI or in ``<dir>/mlflow/mlflow.db``."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.trackers.cell import Curve
from experiments.trackers.run import Run, flat

CELL = "adg.cell"  # tag by which the run of a cell is found
METRICS = 1000  # that a request may hold
AT_ONCE = 100  # params, or tags
LONGEST = 500  # characters of a value
STATES = {"done": "FINISHED", "not-run": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MlflowRun(Run):
    """Found again by a tag; its metrics' histories say what it holds."""

    client: Any

    def begin(self) -> None:
        from mlflow import MlflowClient

        place = self.folder / "mlflow"
        place.mkdir(parents=True, exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self.place = uri or str(place / "mlflow.db")
        self.client = MlflowClient(uri or f"sqlite:///{place / 'mlflow.db'}")
        found = self.client.get_experiment_by_name(self.cfg.project)
        files = None if uri else (place / "files").as_uri()
        experiment = found.experiment_id if found else self.client.create_experiment(self.cfg.project, files)
        runs = self.client.search_runs([experiment], f"tags.`{CELL}` = '{self.cell.id}'", max_results=1)
        if runs:
            self.run = runs[0].info.run_id
            for name in runs[0].data.metrics:
                for metric in self.client.get_metric_history(self.run, name):
                    self.hold(name, metric.step, metric.value)
            self.client.update_run(self.run, status="RUNNING")
            return
        tags = {CELL: self.cell.id, "group": self.cell.group}
        self.run = self.client.create_run(experiment, tags=tags, run_name=self.cell.name).info.run_id
        self._keep_params()

    def _keep_params(self) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:LONGEST]) for name, value in flat(self.cell.config).items()]
        for first in range(0, len(params), AT_ONCE):
            self.client.log_batch(self.run, params=params[first : first + AT_ONCE])

    def add(self, rows: Curve) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for step, numbers in rows for name, value in numbers.items()]
        for first in range(0, len(metrics), METRICS):
            self.client.log_batch(self.run, metrics=metrics[first : first + METRICS])

    def describe(self, words: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, said[:LONGEST]) for name, said in words.items()]
        for first in range(0, len(tags), AT_ONCE):
            self.client.log_batch(self.run, tags=tags[first : first + AT_ONCE])

    def close(self, state: str, files: Mapping[str, Path]) -> tuple[str, str]:
        there = {entry.path for entry in self.client.list_artifacts(self.run)} if files else set()
        for name, path in files.items():
            if name not in there:
                self.client.log_artifact(self.run, str(path))
        self.client.set_terminated(self.run, STATES[state])
        return self.place, "offline" if self.place.endswith("mlflow.db") else "online"
