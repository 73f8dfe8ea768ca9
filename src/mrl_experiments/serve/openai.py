"""The part of OpenAI's interface that embeds: its own client works with it."""

import base64
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel

from mrl_experiments.serve.reading import Dims, GivenInputs
from mrl_experiments.serve.refused import Refused
from mrl_experiments.serve.service import Service

OWNER = "mrl-experiments"


class EmbeddingsBody(BaseModel):
    """What `client.embeddings.create` sends; a picture is a data URL in place of a text."""

    input: GivenInputs
    model: str
    dimensions: Dims = None
    encoding_format: Literal["float", "base64"] = "float"


class Embedding(BaseModel):
    """A vector of length one: numbers, or the base64 of float32 in little-endian order."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """The tokens of all texts; pictures have none."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsList(BaseModel):
    """Vectors in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


def add_openai(app: FastAPI, service: Service) -> None:
    """Add /v1/embeddings and /v1/models to an application."""
    run = service.model.run
    created = int(run.config_path.stat().st_mtime)
    known: dict[str, Any] = {"id": run.name, "object": "model", "created": created, "owned_by": OWNER}

    def check(model: str) -> None:
        if model != run.name:
            told = f"the model {model!r} is not served here, {run.name!r} is"
            raise Refused(told, status=404, param="model", code="model_not_found")

    @app.post("/v1/embeddings")
    async def embeddings(body: EmbeddingsBody) -> EmbeddingsList:
        check(body.model)
        vectors, tokens = await service.answers(body.input, service.embedding(body.dimensions))
        as_text = body.encoding_format == "base64"
        data = [
            Embedding(
                index=number,
                embedding=base64.b64encode(one.astype("<f4").tobytes()).decode() if as_text else one.tolist(),
            )
            for number, one in enumerate(vectors)
        ]
        usage = Usage(prompt_tokens=tokens, total_tokens=tokens)
        return EmbeddingsList(data=data, model=run.name, usage=usage)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [known]}

    @app.get("/v1/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        check(model)
        return known
