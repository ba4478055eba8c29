"""Dense embedders in the Hugging Face layout, on the CPU without torch: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, MPNet.

Which pooling, prefixes and window a model was trained with is told by its folder's card; see `embedder.folder`.
"""

from __future__ import annotations

from pathlib import Path

from embedder.encoders.base import open_tokenizer
from embedder.encoders.bert_graph import BertConfig, BertGraph
from embedder.encoders.checkpoint import read_weights
from embedder.encoders.dense import DenseEncoder, with_pooling
from embedder.errors import ModelFolderError
from embedder.folder import ModelFolder
from embedder.settings import EncoderSettings

WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")
"""The first that is there is read."""


class BertEncoder(DenseEncoder):
    """An encoder of BERT's family on OpenVINO. See `Encoder`."""

    def __init__(self, model_dir: Path, settings: EncoderSettings) -> None:
        """Loads `config.json`, the weights and `tokenizer.json`.

        Raises:
            ModelFolderError: a file is missing, is of another architecture or another model, or no file says how the
                model pools.
        """
        folder = ModelFolder.open(model_dir)
        config = BertConfig.load(folder.file("config.json"))
        found = [model_dir / name for name in WEIGHTS_NAMES if (model_dir / name).is_file()]
        if not found:
            raise ModelFolderError(f"The model folder {model_dir} has none of {', '.join(WEIGHTS_NAMES)}.")
        if folder.card.pooling is None:
            raise ModelFolderError(
                f"Nothing in {model_dir} says how the model pools: write embedder.json with "
                '{"pooling": "mean"} or {"pooling": "cls"}, as its authors tell.'
            )
        tokenizer = open_tokenizer(folder, settings, default_tokens=config.max_tokens, most_tokens=config.max_tokens)
        graph = BertGraph(config, read_weights(found[0]))
        if tokenizer.largest_id >= graph.vocabulary:
            raise ModelFolderError(
                f"{model_dir}: tokenizer.json has the token {tokenizer.largest_id}, the weights have "
                f"{graph.vocabulary} tokens: they are not of one model."
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
