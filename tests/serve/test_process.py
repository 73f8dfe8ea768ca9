"""serve.py as users run it: OpenAI's own client, many clients at once, and its end."""

import base64
import os
import re
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx2 as httpx
import numpy as np
import openai
import pytest
from commands import ROOT
from commands import run as ran
from serving import HOST, Process, data_url

from mrl_experiments.runs import Run


@pytest.fixture(scope="module")
def urls(pictures):
    return [data_url(one) for one in pictures[:24]]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_openais_client_gets_the_vectors_in_both_forms(client, model, pictures, urls):
    name, dim = model.run.name, model.dims[1]
    expected = model.encode(pictures[:24], dim)
    for encoding in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        found = client.embeddings.create(model=name, input=urls, dimensions=dim, **encoding)
        assert [one.index for one in found.data] == [*range(24)] and found.model == name
        vectors = [one.embedding for one in found.data]
        if encoding.get("encoding_format") == "base64":
            assert isinstance(vectors[0], str)  # asked for by name, it is left as it came
            vectors = [np.frombuffer(base64.b64decode(one), "<f4") for one in vectors]
        np.testing.assert_allclose(np.array(vectors), expected, atol=1e-5)
    whole = client.embeddings.create(model=name, input=urls[0], user="somebody").data[0].embedding
    np.testing.assert_allclose(whole, model.encode(pictures[:1])[0], atol=1e-5)
    assert [one.id for one in client.models.list()] == [name]
    assert client.models.retrieve(name).owned_by == "mrl-experiments"


def test_openais_client_raises_its_own_errors(client, model, urls):
    name = model.run.name
    for tokens in ([1, 2, 3], [[1, 2], [3]]):
        with pytest.raises(openai.BadRequestError, match="token ids are not taken") as raised:
            client.embeddings.create(model=name, input=tokens)
        assert raised.value.param == "input" and raised.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="is not served here") as missing:
        client.embeddings.create(model="text-embedding-3-small", input=urls[0])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="dimensions=7"):
        client.embeddings.create(model=name, input=urls[0], dimensions=7)
    with pytest.raises(openai.BadRequestError, match="none is fetched"):
        client.embeddings.create(model=name, input="https://example.org/cat.png")


def test_many_clients_at_once_get_their_own_answers_and_share_batches(server, model, pictures, urls):
    expected = {dim: model.encode(pictures[:24], dim) for dim in model.dims}

    def asked(number):
        rng = np.random.default_rng(number)
        with httpx.Client(base_url=server.url, timeout=60) as one:
            for _ in range(10):
                rows, dim = rng.integers(24, size=rng.integers(1, 4)), int(rng.choice(model.dims))
                body = {"inputs": [urls[row] for row in rows], "dimensions": dim}
                vectors = one.post("/embed", json=body).raise_for_status().json()["embeddings"]
                np.testing.assert_allclose(vectors, expected[dim][rows], atol=1e-5)
                found = one.post("/search", json={"inputs": [urls[rows[0]]], "k": 1}).json()["results"]
                assert found[0][0]["id"] == rows[0]

    before = batches(server)
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(asked, range(8)))
    count, inputs = (after - was for after, was in zip(batches(server), before, strict=True))
    assert inputs > count  # some had several


def batches(server):
    text = httpx.get(f"{server.url}/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("mrl_batch_inputs_"))
    return float(lines["mrl_batch_inputs_count"]), float(lines["mrl_batch_inputs_sum"])


def test_sigterm_answers_what_is_there_and_ends_with_status_0(digits, urls, index):
    server = Process(digits, f"index={index}", "wait=800", "api_key=OUR_KEY", env={"OUR_KEY": "secret"})
    answers = []
    headers = {"Authorization": "Bearer secret"}

    def ask():
        body = {"inputs": urls[:2]}
        answers.append(httpx.post(f"{server.url}/embed", json=body, headers=headers, timeout=30))

    assert httpx.post(f"{server.url}/embed", json={"inputs": urls[0]}).status_code == 401
    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.4)  # it waits for others now
    status, out, err = server.end()
    asking.join(30)
    assert answers[0].status_code == 200 and len(answers[0].json()["embeddings"]) == 2
    assert status == 0 and "Traceback" not in err, err
    assert out.splitlines()[-2:] == [f"serving {digits.name} on {server.url}", "stopped"]


@pytest.mark.slow
def test_slow_clients_are_sent_away(digits, urls):
    server = Process(digits, "request_seconds=1")

    def answered(*parts):
        """Send parts with pauses, none of them too long; return the answer, and how long it took."""
        with socket.create_connection((HOST, server.port), 10) as one:
            one.settimeout(10)
            began, got = time.monotonic(), b""
            for part in parts:
                one.sendall(part)
                if select.select([one], [], [], 0.3)[0] and b"GET" not in part:
                    break  # it has answered, or closed
            with suppress(ConnectionError):
                while part := one.recv(4096):
                    got += part
            return got, time.monotonic() - began

    head = b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    try:
        for parts in (
            [],
            [b"POST /em"],
            [b"POST /embed HTTP/1.1\r\n"] + [b"X-Slow: 1\r\n"] * 9,
            [b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", b"GET "],
        ):
            got, seconds = answered(*parts)
            assert seconds < 9 and got.count(b"HTTP/1.1 ") == got.count(b" 200 OK") == (
                parts[-1:] == [b"GET "]
            )
        got, seconds = answered(head % 90 + b"\r\n", *[b" "] * 9)
        assert got.startswith(b"HTTP/1.1 408") and b"within 1 seconds" in got and seconds < 9
        assert b"connection: close" in got.lower()
        body = {"inputs": urls[0]}
        with httpx.Client(base_url=server.url, timeout=60) as one:  # which has its own time for each request
            for _ in range(3):
                assert one.post("/embed", json=body).status_code == 200
                time.sleep(0.6)
    finally:
        assert server.end()[0] == 0


def test_what_cannot_be_served_ends_in_one_error(digits, server, tmp_path):
    options = [f"run={digits.name}", f"root={digits.root}"]
    for typed, told in (
        ([f"port={server.port}"], "Address already in use"),
        (["port=0", "host=203.0.113.7"], "host=203.0.113.7"),
        (["port=0", "api_key=NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE"),
    ):
        done = ran("serve.py", *options, *typed)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and told in done.stderr
        assert "Traceback" not in done.stderr and "remedy" in done.stderr


def test_a_missing_package_is_named(digits, tmp_path):
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError(\"No module named 'fastapi'\")")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = ran("serve.py", f"run={digits.name}", f"root={digits.root}", "port=0", env={"PYTHONPATH": path})
    assert done.returncode == 2 and "serve.py needs fastapi" in done.stderr
    assert "mrl-experiments[serve]" in done.stderr


@pytest.mark.slow
def test_the_code_of_the_page_runs(digits, tmp_path, monkeypatch):
    """Its first block builds the index that the server of the others searches."""
    (tmp_path / "outputs" / "runs").mkdir(parents=True)
    run = Run(tmp_path / "outputs" / "runs" / "mrl_resnet10t_digits_s0")
    run.folder.symlink_to(digits.folder)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    build, *rest = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(rest) == 2
    names = {}
    exec(compile(build, "serve.md", "exec"), names)
    server = Process(run, f"index={tmp_path / 'digits-index'}")
    try:
        for block in rest:
            assert "http://127.0.0.1:8000" in block
            exec(compile(block.replace("http://127.0.0.1:8000", server.url), "serve.md", "exec"), names)
    finally:
        assert server.end()[0] == 0
