"""The routes of the service: embed, classify, search, health, metrics and the page."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp

from mrl_experiments.serve.guard import Bounds, Guard
from mrl_experiments.serve.metrics import Counted
from mrl_experiments.serve.openai import add_openai
from mrl_experiments.serve.reading import Dims, GivenInputs
from mrl_experiments.serve.refused import Refused, answer_errors
from mrl_experiments.serve.service import Service
from mrl_experiments.serve.tasks import Answer, Found

PAGE = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
FREE = {*PAGE, "/health"}  # what is answered without a key
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
Whole = Annotated[int, Field(ge=1, lt=2**63, strict=True)]


class Body(BaseModel):
    """What all requests have."""

    model_config = ConfigDict(extra="forbid")
    inputs: GivenInputs


class EmbedBody(Body):
    """Inputs to embed."""

    dimensions: Dims = None


class Embedded(BaseModel):
    """Vectors of length one, a list each."""

    model: str
    dimensions: int
    embeddings: list[list[float]]


class ClassifyBody(Body):
    """Inputs to classify.

    Attributes:
        dimensions: By the classifier of this dim alone.
        confidence: By few dims first, by more while the confidence is at most this.
    """

    dimensions: Dims = None
    confidence: Annotated[float | None, Field(ge=0, le=1, strict=True)] = None


class Class(BaseModel):
    """An answer, and at which dims the cascade stopped for it."""

    label: int
    name: str | None
    confidence: float
    dimensions: int


class Classified(BaseModel):
    """An answer for each input."""

    model: str
    answers: list[Class]


class SearchBody(Body):
    """Inputs whose neighbours are searched.

    Attributes:
        k: How many.
        dimensions: Search as if vectors had these dims only.
        stages: [[dim, keep], ...], in place of both.
    """

    k: Whole | None = None
    dimensions: Dims = None
    stages: Annotated[list[tuple[Whole, Whole]] | None, Field(min_length=1, max_length=16)] = None


class Neighbour(BaseModel):
    """A vector of the index, how similar it is, and what the index has to show of it."""

    id: int
    similarity: float
    payload: dict[str, Any] | None


class Searched(BaseModel):
    """The neighbours of each input.

    Attributes:
        model: The run.
        recall: That this search was built and tested for, None where it was for none.
        stages: By which it went, None where the recall chose them.
        results: For each input, the nearest first.
    """

    model: str
    recall: float | None
    stages: list[tuple[int, int]] | None
    results: list[list[Neighbour]]


def build_app(service: Service, bounds: Bounds, key: str | None = None) -> ASGIApp:
    """Return the application.

    Args:
        service: What answers.
        bounds: What requests may take.
        key: What requests must send, None for nothing.
    """

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        service.begin()
        yield
        service.end()

    # The pages of FastAPI's own documentation load scripts from elsewhere.
    app = FastAPI(
        title="mrl-experiments", lifespan=living, docs_url=None, redoc_url=None, max_body_size=bounds.bytes
    )
    answer_errors(app)
    _add_methods(app, service)
    _add_watching(app, service)
    add_openai(app, service)
    paths = {getattr(route, "path", "") for route in app.routes}
    # Around the application, which would answer requests that are too large in a form of its own.
    return Counted(Guard(app, bounds, key, FREE), service.metrics, paths)


def _add_methods(app: FastAPI, service: Service) -> None:
    name = service.model.run.name

    @app.post("/embed")
    async def embed(body: EmbedBody) -> Embedded:
        task = service.embedding(body.dimensions)
        vectors, _ = await service.answers(body.inputs, task)
        return Embedded(model=name, dimensions=task.dim, embeddings=[one.tolist() for one in vectors])

    @app.post("/classify")
    async def classify(body: ClassifyBody) -> Classified:
        task = service.classification(body.dimensions, body.confidence)
        answers, _ = await service.answers(body.inputs, task)
        return Classified(model=name, answers=[_class(service, one) for one in answers])

    @app.post("/search")
    async def search(body: SearchBody) -> Searched:
        task = service.search(body.k, body.dimensions, body.stages)
        most = service.usual_results if task.stages is None else task.stages[-1][1]
        if len(body.inputs) * most > service.limits.results:
            told = f"{len(body.inputs):,} inputs with {most:,} results each"
            raise Refused(f"{told}: at most {service.limits.results:,} in all", param="k")
        found, _ = await service.answers(body.inputs, task)
        promise = task.index.promise
        return Searched(
            model=name,
            recall=promise.recall
            if promise is not None and task.stages is None and not promise.stale
            else None,
            stages=None if task.stages is None else [*task.stages],
            results=[_neighbours(service, one) for one in found],
        )


def _class(service: Service, found: Answer) -> Class:
    classes = service.model.classes
    name = classes[found.label] if classes else None
    return Class(label=found.label, name=name, confidence=found.confidence, dimensions=found.dim)


def _neighbours(service: Service, found: Found) -> list[Neighbour]:
    assert service.folder is not None
    there = found.ids >= 0
    ids, similarities = found.ids[there], found.similarities[there].tolist()
    shown = service.folder.shown(ids)
    parts = zip(ids.tolist(), similarities, shown, strict=True)
    return [Neighbour(id=one, similarity=similarity, payload=payload) for one, similarity, payload in parts]


def _add_watching(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> JSONResponse:
        ready = service.begun and service.batcher.alive
        return JSONResponse({"status": "ok" if ready else "down"}, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return service.metrics.told()

    @app.get("/info")
    async def info() -> dict[str, Any]:
        return described(service)

    def add(path: str, file: Path) -> None:
        @app.get(path, include_in_schema=False)
        async def page() -> FileResponse:
            return FileResponse(file, headers=HEADERS)

    for path, name in PAGE.items():
        add(path, Path(__file__).with_name(name))


def described(service: Service) -> dict[str, Any]:
    """Return what a service can do, as its page needs to know."""
    model, folder, limits = service.model, service.folder, service.limits
    searched: Sequence[int] = service.searched_dims
    promise = folder.index.promise if folder else None
    return {
        "model": model.run.name,
        "inputs": service.kinds,
        "dims": [*model.dims],
        "classes": model.heads.classes if model.heads is not None and service.classifies else None,
        "cascade": service.cascade is not None,
        "index": None
        if folder is None
        else {
            "vectors": folder.live,
            "dims": [*searched],
            "k": service.usual_results,
            "recall": None if promise is None else promise.recall,
        },
        "limits": {"inputs": limits.inputs, "pixels": limits.pixels, "characters": limits.characters},
    }
