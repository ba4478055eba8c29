"""Entry point that Triton loads. The implementation is `embedder.triton_model.EmbedderModel`."""

from embedder.triton_model import EmbedderModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
