"""Found by Triton; the model is `embedder.triton_model`."""

from embedder.triton_model import EmbedderModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
