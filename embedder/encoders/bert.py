"""Dense embedders in the Hugging Face layout, on the CPU without torch: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, MPNet.

The folder's card has the pooling, prefixes and window that a model was trained with; see `embedder.folder`.
"""

from __future__ import annotations

from pathlib import Path

from embedder.encoders.base import open_tokenizer
from embedder.encoders.bert_graph import BertConfig, BertGraph
from embedder.encoders.checkpoint import read_weights
from embedder.encoders.dense import DenseEncoder, with_pooling
from embedder.errors import ModelFolderError
from embedder.folder import EmbedderFolder
from embedder.settings import EncoderSettings

WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")
"""File names of the weights. The first that exists is read."""


class BertEncoder(DenseEncoder):
    """A BERT-family encoder on OpenVINO. See `Encoder`."""

    def __init__(self, model_dir: Path, settings: EncoderSettings) -> None:
        """Loads `config.json`, the weights and `tokenizer.json`.

        Raises:
            ModelFolderError: a file is missing, or belongs to another architecture or model, or no file names the
                pooling.
        """
        folder = EmbedderFolder.open(model_dir)
        config = BertConfig.load(folder.file("config.json"))
        found = [model_dir / name for name in WEIGHTS_NAMES if (model_dir / name).is_file()]
        if not found:
            raise ModelFolderError(f"The model folder {model_dir} has none of {', '.join(WEIGHTS_NAMES)}.")
        if folder.card.pooling is None:
            raise ModelFolderError(
                f"Nothing in {model_dir} says how the model pools: write embedder.json with "
                '{"pooling": "mean"} or {"pooling": "cls"}, as its authors document.'
            )
        tokenizer = open_tokenizer(folder, settings, default_tokens=config.max_tokens, most_tokens=config.max_tokens)
        graph = BertGraph(config, read_weights(found[0]))
        if tokenizer.largest_id >= graph.vocabulary:
            raise ModelFolderError(
                f"{model_dir}: tokenizer.json has the token {tokenizer.largest_id}, the weights have "
                f"{graph.vocabulary} tokens: they belong to different models."
            )
        super().__init__(
            with_pooling(
                graph.hidden_states(),
                graph.attention_mask,
                folder.card.pooling,
                [graph.input_ids, graph.attention_mask],
                "bert",
            ),
            tokenizer,
            settings,
            fingerprint=folder.fingerprint(found[:1], settings.model_id),
            padding_id=config.padding_id,
        )
