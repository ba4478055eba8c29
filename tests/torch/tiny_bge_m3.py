"""Writes a folder in the Hugging Face layout of BAAI/bge-m3: the same architecture, small and with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import XLMRobertaConfig, XLMRobertaModel

HIDDEN = 64
LAYERS = 4
HEADS = 4
MAX_TOKENS = 96

_CORPUS = [
    "An inference graph joins a transformer, a predictor, a vector store and an embedder.",
    "Der Einbetter verwandelt Texte in Vektoren; lange Texte werden abgeschnitten.",
    "What is BGE M3? BGE M3 is an embedding model supporting dense retrieval, lexical matching and multi-vector interaction.",
    "L'été, les vecteurs dorment. 检索增强生成 は 文書 に 基づく 回答 です。 Поиск по документам.",
]


def write_tokenizer(folder: Path) -> int:
    """A unigram tokenizer with XLM-RoBERTa's special tokens and their ids. Returns the size of its vocabulary."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = sorted({f"▁{word}" for text in _CORPUS for word in text.split()})
    characters = sorted({character for word in words for character in word})
    scores = [(token, 0.0) for token in special] + [(word, -5.0) for word in words]
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
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_TOKENS, **described})
    )
    (folder / "special_tokens_map.json").write_text(json.dumps(described))
    return tokenizer.get_vocab_size()


def write_weights(folder: Path, name: str, *, vocabulary: int, dtype: torch.dtype = torch.float32) -> None:
    """config.json, the encoder as `name` (pytorch_model.bin or model.safetensors) and both heads."""
    torch.manual_seed(7)
    config = XLMRobertaConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=MAX_TOKENS + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = XLMRobertaModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh weights are so small, and biases zero, that every token would come out alike.
            parameter.add_(torch.randn_like(parameter) * 0.15)
    state = {key: tensor.to(dtype).contiguous() for key, tensor in model.state_dict().items()}
    config.architectures = ["XLMRobertaModel"]
    config.save_pretrained(folder)
    if name == "model.safetensors":
        save_file(state, folder / name, metadata={"format": "pt"})
    else:
        torch.save(state, folder / name)
    for head, outputs in (("sparse_linear.pt", 1), ("colbert_linear.pt", HIDDEN)):
        torch.save(torch.nn.Linear(HIDDEN, outputs, dtype=dtype).state_dict(), folder / head)
