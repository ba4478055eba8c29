"""Dense encoders from Hugging Face checkpoints, on the CPU without torch: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, MPNet.

The pooling, prefixes and maximum length that a model was trained with come from its card: see `embedder.folder`.
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


class BertEncoder(DenseEncoder):
    """A BERT-family encoder on OpenVINO. See `Encoder`."""

    def __init__(self, model_dir: Path, settings: EncoderSettings) -> None:
        """Loads `config.json`, the weights and `tokenizer.json`."""
        folder = EmbedderFolder.open(model_dir)
        config = BertConfig.load(folder.file("config.json"))
        weights = folder.weights()
        if folder.card.pooling is None:
            raise ModelFolderError(
                f"{model_dir} does not declare the model's pooling: add an embedder.json with "
                '{"pooling": "mean"} or {"pooling": "cls"}, as the model\'s authors document.'
            )
        tokenizer = open_tokenizer(folder, settings, default_tokens=config.max_tokens, model_tokens=config.max_tokens)
        graph = BertGraph(config, read_weights(weights))
        if tokenizer.largest_id >= graph.vocabulary:
            raise ModelFolderError(
                f"{model_dir}: tokenizer.json has the token id {tokenizer.largest_id}, but the weights have only "
                f"{graph.vocabulary} tokens: they belong to different models."
            )
        inputs = [graph.input_ids, graph.attention_mask]
        super().__init__(
            with_pooling(graph.hidden_states(), graph.attention_mask, folder.card.pooling, inputs, "bert"),
            tokenizer,
            settings,
            fingerprint=folder.fingerprint([weights], settings.model_id),
            padding_id=config.padding_id,
        )
