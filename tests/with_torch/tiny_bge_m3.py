"""Writes a folder in the Hugging Face layout of BAAI/bge-m3: the same architecture with random weights.

As a program it writes the folder that the embedder's tests read, with FlagEmbedding's embeddings of its texts:
`python tests/with_torch/tiny_bge_m3.py tests/embedder/tiny_bge_m3`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from FlagEmbedding import BGEM3FlagModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import XLMRobertaConfig, XLMRobertaModel

HIDDEN = 64
MAX_TOKENS = 96

_CORPUS = [
    "An inference graph joins a transformer, a predictor, a vector store and an embedder.",
    "Der Einbetter verwandelt Texte in Vektoren; lange Texte werden abgeschnitten.",
    "What is BGE M3? An embedding model for dense retrieval, lexical matching and multi-vector interaction.",
    "L'été, les vecteurs dorment. 检索增强生成 は 文書 に 基づく 回答 です。 Поиск по документам.",
]


def write_tokenizer(folder: Path, words: Sequence[str] = (), max_tokens: int = MAX_TOKENS) -> int:
    """A unigram tokenizer of these words, or of the corpus, with XLM-RoBERTa's special tokens and their ids.

    Returns the size of its vocabulary.
    """
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [f"▁{word}" for word in words] or sorted({f"▁{word}" for text in _CORPUS for word in text.split()})
    characters = [] if words else sorted({character for piece in pieces for character in piece})
    scores = [(token, 0.0) for token in special] + [(piece, -5.0) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scores + [(character, -9.0) for character in characters], unk_id=3))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    assert [tokenizer.token_to_id(token) for token in special[:4]] == [0, 1, 2, 3]
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    described = {f"{name}_token": token for name, token in names.items()}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_tokens, **described})
    )
    (folder / "special_tokens_map.json").write_text(json.dumps(described))
    return tokenizer.get_vocab_size()


def write_weights(
    folder: Path,
    name: str,
    *,
    vocabulary: int,
    dtype: torch.dtype = torch.float32,
    hidden: int = HIDDEN,
    layers: int = 4,
    heads: int = 4,
    max_tokens: int = MAX_TOKENS,
    noise: float = 0.15,
) -> None:
    """config.json, the encoder as `name` (pytorch_model.bin or model.safetensors) and both heads.

    Fresh weights of a small network are so near zero that all tokens come out alike: `noise` is added to them.
    """
    torch.manual_seed(7)
    config = XLMRobertaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=max_tokens + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = XLMRobertaModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * noise)
    state = {key: tensor.to(dtype).contiguous() for key, tensor in model.state_dict().items()}
    config.architectures = ["XLMRobertaModel"]
    config.save_pretrained(folder)
    if name == "model.safetensors":
        save_file(state, folder / name, metadata={"format": "pt"})
    else:
        torch.save(state, folder / name)
    for head, outputs in (("sparse_linear.pt", 1), ("colbert_linear.pt", hidden)):
        torch.save(torch.nn.Linear(hidden, outputs, dtype=dtype).state_dict(), folder / head)


def _write_expected(folder: Path) -> None:
    """Write the outputs of BGEM3FlagModel in fp32, with the library versions."""
    texts = [*_CORPUS, "", "☃ <mask> </s>", _CORPUS[0] * 4]
    model = BGEM3FlagModel(str(folder), use_fp16=False, devices="cpu")
    made = model.encode(texts, max_length=MAX_TOKENS, return_dense=True, return_sparse=True, return_colbert_vecs=True)
    expected = {
        "source": {name: version(name) for name in ("FlagEmbedding", "torch", "transformers")},
        "texts": texts,
        "dense": made["dense_vecs"].tolist(),
        "sparse": [{token: float(weight) for token, weight in weights.items()} for weights in made["lexical_weights"]],
        "multi_vectors": [vectors.tolist() for vectors in made["colbert_vecs"]],
    }
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    write_weights(target, "pytorch_model.bin", vocabulary=write_tokenizer(target), hidden=16, layers=2)
    _write_expected(target)
