"""Language modelling with the vocabulary head of a run."""

from collections.abc import Iterator, Sequence

import numpy as np

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.loops import tracked
from mrl_experiments.metrics.likelihood import bits_per_byte, bytes_of_text, head_scores
from mrl_experiments.results import Measurement, measured
from mrl_experiments.trained_heads import head_costs, trained_heads


def language(queries: Embeddings, database: Embeddings | None, dims: Sequence[int]) -> Iterator[Measurement]:
    """Yield what the head says of N tokens at each dim (hidden tokens: Table 7).

    top1, top5: tokens among the 1, 5 largest logits / N. nll: mean of -log p(token), in nats.
    perplexity: exp(nll). bits_per_byte: -log2 p summed over all tokens / bytes of their text, which compares
    vocabularies. Hidden tokens have neither: they are predicted from both sides, and do not make up a text.
    macs: multiply-adds of the head per token; network_macs: of the network with it, where that is known.

    Raises:
        UserError: For embeddings that are not of tokens, without heads, or without one at any of `dims`.
    """
    del database
    text_bytes = bytes_of_text(queries.meta)
    heads = trained_heads(queries, dims)
    for dim in tracked(filter(heads.serves, dims), "classifying", len(dims)):
        values = head_scores(heads, queries.features, queries.labels, dim)
        if text_bytes is not None:
            values["perplexity"] = float(np.exp(values["nll"]))
            values["bits_per_byte"] = bits_per_byte(values["nll"], len(queries), text_bytes)
        yield from measured(dim, values | head_costs(queries, heads, dim))
