"""Writer of tensors of one TensorBoard plugin, into a run's own event file or one beside it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.tensorflow_stub import dtypes
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

Storable = npt.NDArray[Any] | str | bytes | list[str] | list[bytes]


class TensorWriter:
    """Writes tensors of a plugin; TensorBoard finds their kind in the first event of each tag.

    Args:
        plugin: Name of the plugin.
        target: The ``SummaryWriter`` of the run, or the folder in which an event file is started.
    """

    def __init__(self, plugin: str, target: SummaryWriter | Path) -> None:
        self._plugin, self._known = plugin, set[str]()
        self._writer = target if isinstance(target, SummaryWriter) else None
        self._file = None if isinstance(target, SummaryWriter) else _begin(target, plugin)

    def write(self, tag: str, value: Storable, step: int) -> int:
        """Write one tensor; return the number of bytes that it takes.

        Raises:
            ValueError: if the file was closed.
        """
        stored = Summary.Value(tag=tag, metadata=self._metadata(tag), tensor=_as_tensor(value))
        summary = Summary(value=[stored])
        if self._file is not None:
            self._file.add_event(Event(step=step, summary=summary, wall_time=time.time()))
        elif self._writer is not None:
            self._writer._get_file_writer().add_summary(summary, step)
        return int(summary.ByteSize()) + _EVENT

    def flush(self) -> None:
        """Flush, so that a reader finds everything written."""
        if self._file is not None:
            self._file.flush()
        elif self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close a file of our own; the run's writer is its logger's."""
        if self._file is not None:
            self._file.close()

    def _metadata(self, tag: str) -> SummaryMetadata | None:
        if tag in self._known:
            return None
        self._known.add(tag)
        data = SummaryMetadata.PluginData(plugin_name=self._plugin)
        return SummaryMetadata(plugin_data=data, data_class=DATA_CLASS_TENSOR)


_EVENT = 36  # bytes of an event besides its summary: time, step, length and checksums


def _begin(folder: Path, plugin: str) -> EventFileWriter:
    folder.mkdir(parents=True, exist_ok=True)
    return EventFileWriter(str(folder), filename_suffix=f".{plugin}")


def _as_tensor(value: Storable) -> Any:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = json.dumps(value)  # texts as one tensor: those of NumPy have a fixed length
    if isinstance(value, str):
        value = value.encode("utf-8")
    if isinstance(value, bytes | list):
        return tensor_util.make_tensor_proto(np.array(value, dtype=object))
    # make_tensor_proto would spend up to three bytes on a number of two.
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in value.shape])
    kind = dtypes.as_dtype(value.dtype).as_datatype_enum
    return TensorProto(dtype=kind, tensor_shape=shape, tensor_content=np.ascontiguousarray(value).tobytes())
