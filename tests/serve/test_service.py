"""What the service answers is what the library computes, and what it refuses is told in one form."""

import json
import shutil

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import data_url, options

from mrl_experiments import AdaptiveClassifier, AdaptiveIndex
from mrl_experiments.adaptive.classification.policies.uniform import Uniform
from mrl_experiments.embeddings import load as stored
from mrl_experiments.errors import UserError
from mrl_experiments.serve import reading
from mrl_experiments.serve.app import build_app
from mrl_experiments.serve.folder import write_folder
from mrl_experiments.serve.guard import Bounds, Guard
from mrl_experiments.serve.service import open_service

MANY = 1_000_000
BOUNDS = Bounds(MANY, 2 * MANY, 30)
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client(digits, index):
    app = build_app(open_service(options(digits, f"index={index}", "inputs=32", "results=900")), BOUNDS)
    with TestClient(app) as found:
        yield found


@pytest.fixture(scope="module")
def urls(pictures):
    return [data_url(one) for one in pictures[:20]]


def ok(client, path, **body):
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client, path, status=400, **body):
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert {*error} == {"message", "type", "param", "code"} and error["message"]
    return error["message"]


def test_vectors_are_those_of_encode_at_each_dim(client, model, pictures, urls):
    for dim in model.dims:
        found = ok(client, "/embed", inputs=urls, dimensions=dim)
        assert (found["dimensions"], found["model"]) == (dim, model.run.name)
        np.testing.assert_allclose(found["embeddings"], model.encode(pictures[:20], dim), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found["embeddings"], axis=1), 1, atol=1e-5)
    one = ok(client, "/embed", inputs={"image": urls[3]})["embeddings"]
    np.testing.assert_allclose(one, model.encode(pictures[3:4]), atol=1e-5)


def test_classes_are_those_of_predict_and_a_cascade_says_where_it_stopped(client, model, pictures, urls):
    features = model.encode(pictures[:20], model.width, normalize=False)
    for dim in model.dims:
        answers = ok(client, "/classify", inputs=urls, dimensions=dim)["answers"]
        assert [one["name"] for one in answers] == model.predict(pictures[:20], dim)
        assert {one["dimensions"] for one in answers} == {dim}
        best = model.predict_proba(pictures[:20], dim).max(1)
        np.testing.assert_allclose([one["confidence"] for one in answers], best, atol=1e-4)
    stopped = set()
    for threshold in (0, 0.6, 0.9, 1):
        answers = ok(client, "/classify", inputs=urls, confidence=threshold)["answers"]
        alone = AdaptiveClassifier(model.heads)
        alone.cascade = Uniform(threshold).cascade(model.dims)
        expected = alone.predict(features)
        assert [one["dimensions"] for one in answers] == expected.dims.tolist()
        assert [one["label"] for one in answers] == expected.labels.tolist()
        stopped |= {one["dimensions"] for one in answers}
    assert len(stopped) > 1


def test_fitted_thresholds_are_used_and_those_of_others_refused(digits, model, pictures, urls, tmp_path):
    split = stored(digits.embeddings("digits", "val"))
    fitted = AdaptiveClassifier(split.heads).fit(Uniform(0.8), split.features, split.labels, dims=model.dims)
    fitted.save(tmp_path / "fitted")
    service = open_service(options(digits, f"cascade={tmp_path / 'fitted'}"))
    expected = fitted.predict(model.encode(pictures[:20], model.width, normalize=False))
    with TestClient(build_app(service, BOUNDS)) as client:
        answers = ok(client, "/classify", inputs=urls)["answers"]
        assert [one["dimensions"] for one in answers] == expected.dims.tolist()
        assert refused(client, "/search", 404, inputs=urls) and client.get("/info").json()["index"] is None
    weights = {dim: weight + 1 for dim, weight in split.heads.weights.items()}
    other = AdaptiveClassifier(type(split.heads)(weights, split.heads.biases, tied=False))
    other.fit(Uniform(0.8), split.features, split.labels).save(tmp_path / "other")
    with pytest.raises(UserError, match="other classifiers"):
        open_service(options(digits, f"cascade={tmp_path / 'other'}"))


def nearest(queries, vectors, k):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, vectors)]
    return np.argsort(-(unit[0] @ unit[1].T), axis=1, kind="stable")[:, :k]


def test_search_finds_the_nearest_with_what_is_shown_of_them(client, digits, model, urls):
    split = stored(digits.embeddings("digits", "val"))
    first, width = model.dims[0], model.width
    for dim in model.dims:  # all are candidates, so each dim is searched exactly
        stages = [[first, 360], [dim, 5]] if dim > first else [[first, 5]]
        found = ok(client, "/search", inputs=urls[:2], stages=stages)
        expected = nearest(split.features[:2, :dim], split.features[:, :dim], 5)
        assert [[one["id"] for one in row] for row in found["results"]] == expected.tolist()
        assert found["stages"] == stages and found["recall"] is None
    usual = ok(client, "/search", inputs=urls)
    assert usual["stages"] == [[first, 200], [width, 10]] and len(usual["results"]) == 20
    for row, result in enumerate(usual["results"]):
        assert result[0]["id"] == row and result[0]["similarity"] == pytest.approx(1, abs=1e-5)
        for one in result:
            assert one["payload"]["label"] == str(split.labels[one["id"]])
            assert one["payload"]["image"].startswith("data:image/")
    short = ok(client, "/search", inputs=urls[:1], k=3, dimensions=model.dims[1])
    assert short["stages"] == [[first, 200], [model.dims[1], 3]]
    wide = ok(client, "/search", inputs=urls[:1], k=300)["results"][0]
    assert len(wide) == 300 and len({one["id"] for one in wide}) == 300


def test_a_declared_recall_is_told(digits, model, pictures, urls, tmp_path):
    vectors = model.encode(pictures[:50])  # so few that all are compared
    built = AdaptiveIndex.build(vectors, np.arange(50) * 7, recall=0.5, k=3)
    write_folder(tmp_path / "index", built, digits)
    with TestClient(
        build_app(open_service(options(digits, f"index={tmp_path / 'index'}")), BOUNDS)
    ) as client:
        found = ok(client, "/search", inputs=urls[:5])
        assert (found["recall"], found["stages"]) == (0.5, None)
        expected = built.search(model.encode(pictures[:5])).ids
        assert [[one["id"] for one in row] for row in found["results"]] == expected.tolist()
        assert found["results"][0][0]["payload"] is None
        assert ok(client, "/search", inputs=urls[:1], k=2)["recall"] is None  # it was declared for three
        assert client.get("/info").json()["index"]["recall"] == 0.5


ADDRESSES = ["http://127.0.0.1/x.png", "https://a.b/c", "file:///etc/passwd", "/etc/passwd", "../x.png"]
ADDRESSES += ["data:text/plain;base64,aGk=", "data:image/png,abc"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_address_is_ever_opened(client, address, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("opened")

    monkeypatch.setattr("pathlib.Path.read_bytes", opened)
    monkeypatch.setattr("socket.create_connection", opened)
    for inputs in (address, {"image": address}, [address]):
        message = refused(client, "/embed", inputs=inputs)
        assert message.startswith("input 0: ")
    if address.startswith(("http", "file")):
        assert "none is fetched" in refused(client, "/embed", inputs=address)


def test_what_does_not_fit_is_told(client, urls, pictures):
    assert "at least one" in refused(client, "/embed", inputs=[])
    assert "token ids" in refused(client, "/embed", inputs=[[1, 2]])
    assert "at most 32" in refused(client, "/embed", inputs=urls * 2)
    assert "dimensions=7" in refused(client, "/embed", inputs=urls[0], dimensions=7)
    assert "input 1" in refused(client, "/embed", inputs=[urls[0], urls[0][:60]])
    assert "images alone" in refused(client, "/embed", inputs={"text": "four"})
    assert "at most one" in refused(client, "/classify", inputs=urls[0], dimensions=12, confidence=0.5)
    assert "confidence" in refused(client, "/classify", inputs=urls[0], confidence=2)
    assert "do not nest" in refused(client, "/search", inputs=urls[0], stages=[[12, 10], [8, 5]])
    assert "at most 900" in refused(client, "/search", inputs=urls[0], stages=[[12, 901]])
    assert "at most 900 in all" in refused(client, "/search", inputs=urls, k=50)
    assert "at most 96" in refused(client, "/search", inputs=urls[0], stages=[[12, 10], [97, 5]])
    assert "leave out" in refused(client, "/search", inputs=urls[0], stages=[[12, 10]], k=3)
    assert "from 12 to 96" in refused(client, "/search", inputs=urls[0], dimensions=4)
    assert "not permitted" in refused(client, "/search", inputs=urls[0], file="/etc")
    assert "413" in str(
        client.post("/embed", content=b"x" * (MANY + 1), headers={"content-type": "application/json"})
    )
    chunks = (b"x" * 100_000 for _ in range(20))
    assert (
        client.post("/embed", content=chunks, headers={"content-type": "application/json"}).status_code == 413
    )
    assert (
        client.post("/embed", content="[" * 100_000, headers={"content-type": "application/json"}).status_code
        == 400
    )
    assert (
        client.post("/embed", content=json.dumps({"inputs": urls[0]})).status_code == 400
    )  # no JSON by its type
    assert client.get("/none").json()["error"]["message"] == "Not Found"
    assert client.get("/embed").status_code == 405


def test_numbers_are_numbers_and_texts_are_unicode(client, urls, trained_runs):
    for stages in ([["12", "10"]], [[12.0, 10]], [[12, True]], [[12, -5]], [[12, 10**400]]):
        assert "stages" in refused(client, "/search", inputs=urls[0], stages=stages)
    for k in (True, 3.0, "3", 0, 2**63, 10**400):
        assert "k" in refused(client, "/search", inputs=urls[0], k=k)
    for confidence in (True, "0.5"):
        assert "confidence" in refused(client, "/classify", inputs=urls[0], confidence=confidence)
    assert ok(client, "/classify", inputs=urls[0], confidence=1)
    sent = client.post("/embed", content=b"{}", headers={**JSON, "content-length": "9" * 5000})
    assert sent.status_code == 413
    service = open_service(options(trained_runs["masked"]))
    with TestClient(build_app(service, BOUNDS)) as texts:
        for half in ("\ud800", {"text": "a\udfff"}, ["good", "\udc00"]):
            response = texts.post("/embed", content=json.dumps({"inputs": half}), headers=JSON)
            assert response.status_code == 400 and "lone surrogate" in response.text
        assert ok(texts, "/embed", inputs="\U0001f600")


def test_large_and_odd_pictures_are_refused_before_they_are_decoded(digits, pictures, urls):
    service = open_service(options(digits, "pixels=1100"))
    with TestClient(build_app(service, BOUNDS)) as client:
        assert ok(client, "/embed", inputs=urls[0])
        told = refused(client, "/embed", inputs=data_url(np.zeros((40, 40), np.uint8)))
        assert "40 x 40 pixels, more than 1,100" in told
        for form in ("jpeg", "webp", "gif", "bmp"):
            assert ok(client, "/embed", inputs=data_url(pictures[0], form))
        assert "none of PNG" in refused(client, "/embed", inputs=data_url(pictures[0], "tiff"))


def test_all_pictures_of_a_request_have_a_limit_together(digits, urls, monkeypatch):
    service = open_service(options(digits, "request_pixels=3072"))  # three of 32 x 32
    decoded, whole = [], reading.read_bytes
    monkeypatch.setattr(
        reading, "read_bytes", lambda *args, **more: decoded.append(1) or whole(*args, **more)
    )
    with TestClient(build_app(service, BOUNDS)) as client:
        assert ok(client, "/embed", inputs=urls[:3]) and ok(client, "/embed", inputs=urls[:3])
        decoded.clear()
        told = refused(client, "/embed", inputs=urls[:8])
        assert told == "input 3: with this one there are 4,096 pixels in a request, more than 3,072"
        assert len(decoded) == 4 and service.batcher.held == 0


def test_the_bytes_of_all_requests_have_a_limit(digits, urls):
    app = build_app(open_service(options(digits)), Bounds(MANY, MANY, 30))
    (guard,) = (one for one in vars(app).values() if isinstance(one, Guard))
    with TestClient(app) as client:
        guard.held = MANY - 100
        response = client.post("/embed", json={"inputs": urls[0]})
        assert response.status_code == 503 and response.headers["retry-after"]
        assert client.get("/health").status_code == 200
        guard.held = 0
        assert ok(client, "/embed", inputs=urls[0]) and guard.held == 0
        assert client.post("/embed", content=b"x" * (MANY + 1)).status_code == 413 and guard.held == 0


@pytest.mark.parametrize("k", [2.5, 2.0, True, "2", 0, -1, 2**70])
def test_a_k_that_is_no_whole_number_is_refused(client, urls, k):
    assert "k: " in refused(client, "/search", inputs=urls[0], k=k)
    assert "stages" in refused(client, "/search", inputs=urls[0], stages=[[96, k]])


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(["/embed", "/classify", "/search", "/v1/embeddings"]), body=ANY, extra=ANY)
def test_anything_is_answered_with_400_at_most(client, path, body, extra):
    for one in (body, {"inputs": body, "dimensions": extra}, {"input": body, "model": extra}):
        response = client.post(path, json=one)
        assert response.status_code in (400, 404) and response.json()["error"]["message"]


def test_a_full_queue_is_503(digits, urls):
    service = open_service(options(digits, "queue=4", "inputs=4"))
    with TestClient(build_app(service, BOUNDS)) as client:
        with service.batcher.holding(2):
            assert ok(client, "/embed", inputs=urls[:2])
            response = client.post("/embed", json={"inputs": urls[:3]})
        assert response.status_code == 503 and response.headers["retry-after"]
        assert response.json()["error"]["type"] == "overloaded_error"
        assert ok(client, "/embed", inputs=urls[:4]) and service.batcher.held == 0


def test_a_fault_is_500_without_what_went_wrong(digits, urls, monkeypatch):
    service = open_service(options(digits))
    monkeypatch.setattr(service.model, "encode", lambda *_, **__: 1 / 0)
    with TestClient(build_app(service, BOUNDS), raise_server_exceptions=False) as client:
        assert "log" in refused(client, "/embed", 500, inputs=urls[:1]) and service.batcher.alive


def test_a_key_is_asked_for_but_of_the_page_and_health(digits, urls):
    with TestClient(build_app(open_service(options(digits)), BOUNDS, key="sécret")) as client:
        for path in ("/", "/page.js", "/page.css", "/health"):
            assert client.get(path).status_code == 200
        for path in ("/info", "/metrics", "/v1/models", "/openapi.json", "/none"):
            assert client.get(path).json()["error"]["code"] == "invalid_api_key"
        assert client.post("/embed", content=b"x" * (2 * MANY)).status_code == 401
        for key, status in (
            (b"Bearer wrong", 401),
            (b"Bearer s\xc3\xa9cret", 200),
            (b"Basic s\xc3\xa9cret", 401),
        ):
            response = client.post("/embed", json={"inputs": urls[:1]}, headers={b"Authorization": key})
            assert response.status_code == status


def test_health_and_metrics(client, urls):
    before = ok(client, "/embed", inputs=urls[:3])
    client.get("/some/../path")
    text = client.get("/metrics").text
    assert before and 'mrl_requests_total{path="/embed",status="200"}' in text
    assert 'path="other",status="404"' in text and "mrl_batch_inputs_count" in text
    assert "mrl_held_inputs 0.0" in text and "process_resident_memory_bytes" in text
    assert client.get("/health").json() == {"status": "ok"}


@pytest.mark.slow
def test_a_dual_encoder_takes_texts_and_pictures_together(trained_runs):
    from mrl_experiments import load

    run = trained_runs["captions"]
    dual = load(run.folder)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 20, 20, 3), dtype=np.uint8)
    picture, text = data_url(pixels[0]), "a red square"
    with TestClient(build_app(open_service(options(run)), BOUNDS)) as client:
        mixed = [text, picture, {"text": picture}, {"image": picture}, "http is a word"]
        found = ok(client, "/embed", inputs=mixed)["embeddings"]
        texts = dual.encode([text, picture, "http is a word"])
        np.testing.assert_allclose(np.array(found)[[0, 2, 4]], texts, atol=1e-5)
        image = dual.encode(pixels[0])
        np.testing.assert_allclose(np.array(found)[[1, 3]], [image, image], atol=1e-5)
        assert '{"text"' in refused(client, "/embed", inputs="http://a.b/c.png")
        assert ok(client, "/embed", inputs={"text": "http://a.b/c.png"})
        assert "empty" in refused(client, "/embed", inputs="")
        assert "no classes" in refused(client, "/classify", 404, inputs=text)
        assert client.get("/info").json()["inputs"] == ["text", "image"]


@pytest.mark.slow
def test_a_language_model_embeds_texts(trained_runs):
    from mrl_experiments import load

    for kind in ("causal", "masked"):
        run = trained_runs[kind]
        texts = ["word1 word2", "https://a.b/c", "word3"]
        with TestClient(build_app(open_service(options(run)), BOUNDS)) as client:
            found = ok(client, "/embed", inputs=texts, dimensions=8)["embeddings"]
            np.testing.assert_allclose(found, load(run.folder).encode(texts, 8), atol=1e-5)
            assert "no classes" in refused(client, "/classify", 404, inputs=texts)
            assert "texts alone" in refused(client, "/embed", inputs={"image": "data:image/png;base64,AA=="})


@pytest.mark.parametrize(
    ("kind", "typed", "match"),
    [
        ("adaptor", [], "reads vectors"),
        ("digits", ["split=val"], "without index="),
        ("digits", ["index=nowhere"], "no complete index"),
        ("digits", ["index=nowhere", "split=train"], "no embeddings of it"),
        ("digits", ["cascade=nowhere"], "no complete adaptive classifier"),
        ("digits", ["inputs=2000"], "queue"),
        ("digits", ["run=other"], "matches no run"),
        ("digits", ["checkpoint=best"], "best"),
    ],
)
def test_what_cannot_be_served_is_one_error(trained_runs, digits, kind, typed, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(digits.embeddings("digits", "train"), ignore_errors=True)  # of tests before
    with pytest.raises(UserError, match=match):
        open_service(options(trained_runs[kind], *typed))
    assert not list(tmp_path.iterdir())
