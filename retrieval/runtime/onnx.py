"""ONNX Runtime on the CPU, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from indexer.errors import ModelError
from retrieval.runtime.protocol import Arrays, available_threads


class OnnxRuntime:
    """One session. Weights lie beside the graph and are mapped into memory, not read.

    `prepack` rearranges weights for the machine's matrix kernels: a copy of them in memory and a slower
    start. It pays for convolutions; for the text tower it costs five times the start and gains nothing in a
    full batch.
    """

    precision = "f32"
    preferred_group = 0  # as the spec says

    def __init__(self, session: Any) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]

    @classmethod
    def open(cls, graph: Path, *, threads: int = 0, prepack: bool = True) -> OnnxRuntime:
        """Load a graph; `threads` 0 means every core. ModelError where it cannot be loaded."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Set explicitly: by default ONNX Runtime counts the host's cores and pins threads to them.
        options.intra_op_num_threads = threads or available_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_prepacking", "0" if prepack else "1")
        # Otherwise idle threads spin, and take the cores from decoding and from Python.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has an exception type for every status code
            raise ModelError(
                f"the graph {graph.name} cannot be loaded: {str(error).splitlines()[0]}",
                hint="build the model again: triptych models build",
            ) from error
        return cls(session)

    def run(self, inputs: Arrays) -> Arrays:
        values = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, values, strict=True))
