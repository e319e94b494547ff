"""TensorBoard: event files below ``<dir>/tensorboard``, a folder for each cell; ``tensorboard --logdir`` shows them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adg.artifacts.artifact import file_name
from experiments.trackers.cell import Curve
from experiments.trackers.run import Run


class TensorboardRun(Run):
    """What is in the event files is read back before a line is added, so that none is there twice."""

    writer: Any

    def begin(self) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.place = self.folder / "tensorboard" / file_name(self.cell.group) / self.label
        self.words: dict[str, str] = {}
        if self.place.is_dir():
            there = EventAccumulator(str(self.place), size_guidance={"scalars": 0, "tensors": 0}).Reload()
            for name in there.Tags()["scalars"]:
                for event in there.Scalars(name):
                    self.hold(name, event.step, event.value)
            for name in there.Tags()["tensors"]:
                self.words[name] = there.Tensors(name)[-1].tensor_proto.string_val[0].decode()
        self.place.mkdir(parents=True, exist_ok=True)
        self.writer = EventFileWriter(str(self.place))

    def add(self, rows: Curve) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for step, numbers in rows:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
            self._write(step, Summary(value=values))
        self.writer.flush()  # who looks on reads the file

    def describe(self, words: Mapping[str, str]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        text = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        one = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        values = [
            Summary.Value(
                tag=name,
                metadata=text,
                tensor=TensorProto(dtype="DT_STRING", string_val=[said.encode()], tensor_shape=one),
            )
            for name, said in words.items()
            if self.words.get(name) != said
        ]
        if values:
            self._write(self.last, Summary(value=values))

    def close(self, state: str, files: Mapping[str, Path]) -> tuple[str, str]:
        self.writer.close()
        return str(self.place), "offline"

    def _write(self, step: int, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
