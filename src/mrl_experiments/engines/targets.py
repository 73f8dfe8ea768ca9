"""`export.py target=...`: the table of engines, and what hands vectors over to one."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mrl_experiments.engines.engine import Engine, Shape, check_address, shown
from mrl_experiments.engines.source import Source, find_source
from mrl_experiments.errors import UserError
from mrl_experiments.names import is_name
from mrl_experiments.search.same_rows import sample_digest

NAME = re.compile(r"[A-Za-z_]\w{0,62}", re.ASCII)


@dataclass(frozen=True)
class Target:
    """A kind of engine.

    Attributes:
        module: Where its class is.
        kind: Its class.
        uri: What a uri is, for messages; files have one by themselves.
        indexes: Those over prefixes, the usual one first.
        use: How what was written is used.
        half: Whether it takes float16.
        binary: Whether it takes an index of bits.
    """

    module: str
    kind: str
    uri: str
    indexes: tuple[str, ...]
    use: str
    half: bool = False
    binary: bool = False

    @property
    def files(self) -> bool:
        """Whether it writes a folder by itself."""
        return not self.uri

    def open(self, uri: str, collection: str) -> Engine:
        """Return a collection, opened.

        Raises:
            UserError: If the engine cannot be reached or its package is missing.
        """
        make: Callable[[str, str], Engine] = getattr(import_module(self.module), self.kind)
        return make(uri, collection)


HERE = "mrl_experiments.engines."
INDEXES = ("hnsw", "ivf", "exact")
TARGETS: Mapping[str, Target] = {
    "parquet": Target(
        f"{HERE}parquet_folder", "ParquetFolder", "", ("exact",), 'pandas.read_parquet("{uri}")', half=True
    ),
    "faiss": Target(
        f"{HERE}faiss_file", "FaissFile", "", ("ivf", "hnsw", "exact"),
        'faiss.read_index("{uri}/vectors.faiss").search(queries, 10)',
    ),
    "pgvector": Target(
        f"{HERE}pgvector", "PgVector", "postgresql://user@host/database", INDEXES, "", half=True, binary=True
    ),
    "milvus": Target(
        f"{HERE}milvus", "Milvus", "a file <name>.db, or http://host:19530", INDEXES, "", half=True
    ),
    "lancedb": Target(f"{HERE}lance", "LanceDb", "a folder, or db://<database>", INDEXES, "", half=True),
    "qdrant": Target(f"{HERE}qdrant", "Qdrant", "http://host:6333, or a folder", ("hnsw", "exact"), ""),
}  # fmt: skip


def connect(target: str, uri: str | None, collection: str | None = None) -> Engine:
    """Return a collection of an engine, to be searched: `search(queries, k, shortlist, where)`.

    Args:
        target: A name of TARGETS.
        uri: Where the engine is, or the folder of files.
        collection: The collection's or table's name; files have none.

    Raises:
        UserError: If it cannot be reached, or something is missing.
    """
    if target not in TARGETS:
        raise UserError(f"target={target}", expected=f"one of {', '.join(TARGETS)}")
    if not uri:
        raise UserError(f"target={target} without uri=", expected=TARGETS[target].uri or "the folder")
    if TARGETS[target].files:
        return TARGETS[target].open(uri, "")
    check_address(uri)
    if not NAME.fullmatch(collection or ""):
        raise UserError(
            f"collection={collection}", expected="letters, digits and _, at most 63, no digit first"
        )
    return TARGETS[target].open(uri, str(collection))


def connect_to(target: str | None, uri: str | None, collection: str | None, root: str, *, of: str) -> Engine:
    """Return the collection that export.py has written by these options.

    Args:
        target: As for `connect`; None where a command does not say it.
        uri: As for `connect`, None for the folder of files.
        collection: As for `connect`, None for the usual one.
        root: The folder that holds runs/ and exports/.
        of: The name of what was written, <run>_<split>.

    Raises:
        UserError: As `connect`, and without a target.
    """
    if target is None:
        raise UserError("target= is not given", expected=f"one of {', '.join(TARGETS)}")
    return connect(target, uri or _usual_folder(target, root, of), collection or _usual_collection(of))


def _usual_folder(target: str, root: str, of: str) -> str | None:
    return str(Path(root) / "exports" / f"{of}-{target}") if TARGETS[target].files else None


def _usual_collection(of: str) -> str:
    name = re.sub(r"\W+", "_", of, flags=re.ASCII)[:60]
    return f"_{name}" if name[:1].isdigit() else name


def hand_over(cfg: DictConfig) -> None:
    """Write the vectors that conf/export.yaml, composed, names, and say how to use them.

    What is there already is not written again; an interrupted command is gone on with by repeating it.

    Raises:
        UserError: For options that do not fit, an engine that cannot be reached, or another collection under
            this name.
    """
    target = TARGETS[cfg.target]
    _check(cfg, target)
    source = find_source(cfg)
    shape = shape_of(cfg, source, target)
    collection = cfg.collection or _usual_collection(source.name)
    uri = cfg.uri or _usual_folder(cfg.target, cfg.root, source.name)
    if target.files and not is_name(Path(str(uri)).name):
        raise UserError(f"uri={uri}", expected="a folder")
    with connect(cfg.target, uri, collection) as engine:
        wrote = engine.load(source, shape, overwrite=cfg.overwrite)
        what = f"{shape.rows:,} vectors of {shape.width} dims"
        print(f"{engine.place}: {what}{'' if wrote else ', complete already'}", flush=True)
        use = target.use or (
            f'mrl_experiments.engines.connect("{cfg.target}", "{shown(str(uri))}", "{collection}")'
            ".search(queries, 10, shortlist=200)"
        )
        print(f"use it: {use.format(uri=uri) if target.use else use}", flush=True)


def _check(cfg: DictConfig, target: Target) -> None:
    """Refuse options that the target does not have."""
    if cfg.prefix_index is not None and cfg.prefix_index not in target.indexes:
        raise UserError(
            f"prefix_index={cfg.prefix_index} with target={cfg.target}",
            expected=f"one of {', '.join(target.indexes)}",
        )
    for option in ("half", "binary"):
        if cfg[option] and not getattr(target, option):
            able = ", ".join(name for name, one in TARGETS.items() if getattr(one, option))
            raise UserError(f"{option}=true with target={cfg.target}", expected=f"a target of {able}")
    if cfg.collection and target.files:
        raise UserError(
            f"collection={cfg.collection} with target={cfg.target}", expected="uri=<folder> alone"
        )


def shape_of(cfg: Mapping[str, Any] | DictConfig, source: Source, target: Target) -> Shape:
    """Return the shape of a collection of a source.

    Raises:
        UserError: For a prefix beyond the width, or binary codes without an index.
    """
    index = cfg["prefix_index"] or target.indexes[0]
    eighth = max(1, source.width // 8)  # by default the largest nested dim up to an eighth, else an eighth
    prefix = cfg["prefix"] or max((dim for dim in source.dims if dim <= eighth), default=eighth)
    if prefix > source.width:
        raise UserError(f"prefix={prefix}", expected=f"at most the width {source.width}")
    if cfg["binary"] and index != "hnsw":
        raise UserError(f"binary=true with prefix_index={index}", expected="prefix_index=hnsw")
    return Shape(
        rows=len(source),
        width=source.width,
        prefix=prefix,
        similarity=cfg["similarity"],
        index=index,
        half=bool(cfg["half"]),
        binary=bool(cfg["binary"]),
        columns={name: column.kind for name, column in source.columns.items()},
        digest=source.digest,
        sample=sample_digest(source.vectors),
    )
