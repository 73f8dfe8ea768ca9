"""Language modelling by a run's own vocabulary head."""

from collections.abc import Iterator, Sequence

import numpy as np

from mrl_experiments import cost
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.metrics.likelihood import bits_per_byte, bytes_of_text, scores
from mrl_experiments.results import Measurement
from mrl_experiments.trained_heads import candidates, trained_heads

BLOCK = 2048  # tokens; their logits of a vocabulary of 2,048 then stay near the processor (16 MB)


def language(queries: Embeddings, database: Embeddings | None, dims: Sequence[int]) -> Iterator[Measurement]:
    """Yield what the head says of N tokens at each dim (hidden tokens: Table 7).

    top1, top5: tokens among the 1, 5 largest logits / N. nll: mean of -log p(token), in nats.
    perplexity: exp(nll). bits_per_byte: -log2 p summed over all tokens / bytes of their text, which compares
    vocabularies. Hidden tokens have neither: they are predicted from both sides, and do not make up a text.
    macs: multiply-adds of the head per token; network_macs: of the network with it, where that is known.

    Raises:
        UserError: for embeddings that are not of tokens, without heads, or without one at any of `dims`.
    """
    del database
    text_bytes = bytes_of_text(queries.meta)
    heads = trained_heads(queries, dims)
    candidates(queries, heads, present_only=False)
    for dim in filter(heads.serves, dims):
        sums = np.zeros(3)
        for start in range(0, len(queries), BLOCK):
            part = slice(start, start + BLOCK)
            sums += scores(heads.logits(queries.features[part], dim), queries.labels[part]).sum(axis=0)
        top1, top5, nll = (sums / len(queries)).tolist()
        yield from (Measurement(dim, *pair) for pair in (("top1", top1), ("top5", top5), ("nll", nll)))
        if text_bytes is not None:
            yield Measurement(dim, "perplexity", float(np.exp(nll)))
            yield Measurement(dim, "bits_per_byte", bits_per_byte(nll, len(queries), text_bytes))
        macs = cost.head_macs(dim, heads.classes)
        yield Measurement(dim, "macs", macs)
        if "macs" in queries.meta:
            yield Measurement(dim, "network_macs", queries.meta["macs"] + macs)
