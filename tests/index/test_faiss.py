"""FAISS, LanceDB and Qdrant rank exported vectors as the corrector does, in all three spaces."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from served import K, all_scores, check_top, faiss, fitted, recall

from emcl_plugin.data.demo import load_demo
from emcl_plugin.errors import EmclError, InputTypeError, InputValueError
from emcl_plugin.index.export import export
from emcl_plugin.index.faiss import search_faiss, to_faiss
from emcl_plugin.index.vectors import (
    SPACES,
    gallery_vectors,
    lengths,
    longest,
    query_vectors,
    to_scores,
)

ROOT = Path(__file__).parents[2]


# --- the vectors --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "torch", "bfloat16", "mapped"])
def test_any_kind_of_input(kind, tmp_path):
    demo = load_demo()
    arrays = [demo.text_bank, demo.video, demo.text[:40]]
    if kind == "torch":
        arrays = [torch.from_numpy(x) for x in arrays]
    elif kind == "bfloat16":
        arrays = [torch.from_numpy(x).bfloat16() for x in arrays]
    elif kind == "mapped":
        for i, x in enumerate(arrays):
            np.save(tmp_path / f"{i}.npy", x)
        arrays = [np.load(tmp_path / f"{i}.npy", mmap_mode="r") for i in range(3)]
    else:
        arrays = [x.astype(kind) for x in arrays]
    bank, gallery, queries = arrays
    corrector = fitted(bank, gallery)
    for space in SPACES:
        vectors = gallery_vectors(corrector, space)
        assert isinstance(vectors, np.ndarray)
        assert vectors.dtype == np.float32
        index = to_faiss(corrector, space=space)
        scores, items = search_faiss(corrector, index, queries, K, space=space)
        assert scores.dtype == np.float32
        check_top(corrector, queries, items, scores)


@pytest.mark.parametrize("space", SPACES)
def test_metric_dot(space):
    """Vectors of any length: phi is far from 1, and so are |q| and the scores."""
    rng = np.random.default_rng(1)
    demo = load_demo()
    bank, gallery, queries = (
        (x / lengths(x)[:, None] * rng.uniform(1, 5, (len(x), 1))).astype(np.float32)
        for x in (demo.text_bank, demo.video, demo.text)
    )
    corrector = fitted(bank, gallery, metric="dot")
    assert corrector.strength > 0
    phi = longest(corrector)
    assert phi > 4
    index = to_faiss(corrector, space=space)
    scores, items = search_faiss(corrector, index, queries, K, space=space)
    atol = 1e-6 * (phi**2 + lengths(query_vectors(corrector, queries)).max() ** 2)
    assert atol < 0.01 * all_scores(corrector, queries).std()
    check_top(corrector, queries, items, scores, atol=atol)


def test_unknown_space(forward):
    corrector, queries = forward
    for call in (
        lambda: gallery_vectors(corrector, "euclid"),
        lambda: query_vectors(corrector, queries, "euclid"),
        lambda: to_scores(corrector, queries, np.ones((945, 1)), "euclid"),
        lambda: to_faiss(corrector, space="euclid"),
    ):
        with pytest.raises(InputValueError, match="no such space"):
            call()


# --- FAISS --------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
def test_faiss_flat_agrees_for_every_query(side, space):
    corrector, queries = side
    index = to_faiss(corrector, space=space)
    assert isinstance(index, faiss.IndexFlat)
    assert (index.metric_type == faiss.METRIC_L2) == (space == "l2")
    assert index.ntotal == 945
    assert index.d == (129 if space == "ip" else 130)
    scores, items = search_faiss(corrector, index, queries, K, space=space)
    check_top(corrector, queries, items, scores)


def test_the_correction_changes_what_plain_vectors_find(forward):
    corrector, queries = forward
    plain = faiss.IndexFlatIP(128)
    plain.add(corrector.gallery.numpy())
    text = queries.astype(np.float32)
    faiss.normalize_L2(text)
    assert recall(corrector, queries, plain.search(text, K)[1]) < 0.9


@pytest.mark.parametrize(
    ("factory", "setting", "least"),
    [("HNSW32", {"efSearch": 128}, 0.95), ("IVF32,Flat", {"nprobe": 16}, 0.8)],
)
@pytest.mark.parametrize("space", SPACES)
def test_approximate_indexes_find_most(forward, space, factory, setting, least):
    corrector, queries = forward
    index = to_faiss(corrector, factory, space=space)
    for name, value in setting.items():
        faiss.ParameterSpace().set_index_parameter(index, name, value)
    _, items = search_faiss(corrector, index, queries, K, space=space)
    assert recall(corrector, queries, items) >= least


@pytest.mark.slow
@pytest.mark.parametrize("factory", ["IVF4,PQ8x4", "PQ8x4", "IDMap,PQ8x4"])
def test_product_quantisation_of_a_dimension_that_it_does_not_divide(forward, factory):
    corrector, queries = forward
    index = to_faiss(corrector, factory)
    assert index.d == 129
    assert index.ntotal == 945
    assert isinstance(index, faiss.IndexIDMap) == factory.startswith("IDMap")
    assert recall(corrector, queries[:100], search_faiss(corrector, index, queries[:100])[1]) > 0.2


@pytest.mark.parametrize(
    "make",
    [
        lambda d: faiss.IndexFlatIP(d),
        lambda d: faiss.IndexIDMap(faiss.IndexFlatIP(d)),
        lambda d: faiss.IndexIDMap2(faiss.IndexFlat(d, faiss.METRIC_INNER_PRODUCT)),
        lambda d: faiss.index_factory(d, "IDMap2,Flat", faiss.METRIC_INNER_PRODUCT),
        lambda d: faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, 1, faiss.METRIC_INNER_PRODUCT),
    ],
    ids=["flat", "IDMap", "IDMap2", "factory", "IVF"],
)
def test_an_empty_index_is_filled(forward, make):
    corrector, queries = forward
    index = make(129)
    assert to_faiss(corrector, index) is index
    check_top(corrector, queries, *reversed(search_faiss(corrector, index, queries)))


def test_an_index_that_normalises_is_for_the_cosine(forward):
    corrector, queries = forward
    index = to_faiss(corrector, "L2norm,Flat", space="cosine")
    check_top(
        corrector, queries, *reversed(search_faiss(corrector, index, queries, space="cosine"))
    )


FULL = faiss.IndexFlatIP(129)
FULL.add(np.ones((1, 129), np.float32))


@pytest.mark.parametrize(
    ("index", "space", "kind", "words"),
    [
        (faiss.IndexFlatL2(129), "ip", InputValueError, 'METRIC_L2.*space="l2"'),
        (faiss.IndexIDMap(faiss.IndexFlatL2(129)), "ip", InputValueError, "another metric"),
        (faiss.IndexFlatIP(130), "l2", InputValueError, "METRIC_L2"),
        (faiss.IndexFlatIP(128), "ip", InputValueError, "d=128; 129"),
        (faiss.IndexFlatIP(129), "cosine", InputValueError, "d=129; 130"),
        (FULL, "ip", InputValueError, "not empty"),
        (faiss.IndexBinaryFlat(136), "ip", InputTypeError, "not a FAISS index of float"),
        (None, "ip", InputTypeError, "NoneType"),
        (faiss.index_factory(129, "L2norm,Flat", 0), "ip", InputValueError, "normalizes"),
        ("IDMap,L2norm,Flat", "ip", InputValueError, "normalizes"),
        ("L2norm,Flat", "l2", InputValueError, "normalizes"),
        ("flatt", "ip", InputValueError, "cannot build this index.*flatt"),
        ("LSH", "ip", InputValueError, "cannot build this index"),
        ("IVF5000,Flat", "ip", InputValueError, "Number of training points.*945"),
        ("IVF2,PQ8x10", "ip", InputValueError, "945"),
    ],
)
def test_wrong_indexes_are_refused(forward, index, space, kind, words):
    with pytest.raises(kind, match=f"(?s){words}") as caught:
        to_faiss(forward[0], index, space=space)
    assert isinstance(caught.value, EmclError)
    assert caught.value.remedy
    assert "/" not in caught.value.received  # FAISS's own source


def test_searching_a_wrong_index_is_refused(forward):
    corrector, queries = forward
    index = to_faiss(corrector)
    with pytest.raises(InputValueError, match="another metric"):
        search_faiss(corrector, index, queries, space="l2")
    with pytest.raises(InputValueError, match="another dimension"):
        search_faiss(corrector, index, queries, space="cosine")
    for k in (0, 946):
        with pytest.raises(InputValueError, match=f"k={k}, 945 vectors"):
            search_faiss(corrector, index, queries, k)
    with pytest.raises(InputTypeError):
        search_faiss(corrector, "Flat", queries)


@pytest.mark.parametrize("space", SPACES)
def test_places_that_stay_empty_are_marked(forward, space):
    corrector, queries = forward
    index = to_faiss(corrector, "IVF32,Flat", space=space)
    scores, items = search_faiss(corrector, index, queries[:5], 900, space=space)
    assert (items == -1).any()
    assert_array_equal(scores == -np.inf, items == -1)
    found = np.take_along_axis(all_scores(corrector, queries[:5]), items, axis=1)
    assert_allclose(scores[items >= 0], found[items >= 0], atol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_items_that_come_later_are_added(space):
    demo = load_demo()
    old = fitted(demo.text_bank, demo.video[:600])
    phi = 1.2 * longest(old)
    index = to_faiss(old, space=space, phi=phi)
    grown = old.with_items(demo.video[600:])
    vectors = gallery_vectors(grown, space, phi=phi)
    assert_allclose(vectors[:600], gallery_vectors(old, space, phi=phi), atol=1e-6)
    index.add(vectors[600:])
    scores, items = search_faiss(grown, index, demo.text, K, space=space, phi=phi)
    check_top(grown, demo.text, items, scores)
    assert (items >= 600).any()


# --- LanceDB and Qdrant -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("space", "metric"), [("ip", "dot"), ("cosine", "cosine"), ("l2", "l2")])
def test_lancedb_agrees_for_every_query(side, tmp_path, space, metric):
    lancedb = pytest.importorskip("lancedb", reason="pip install lancedb")
    corrector, queries = side
    done = export(corrector, tmp_path / "db", "lancedb", space=space)
    table = lancedb.connect(str(done.path)).open_table("gallery")
    asked = query_vectors(corrector, queries, space)
    search = table.search(asked).distance_type(metric).limit(K).select(["id", "_distance"])
    rows = search.to_arrow()
    place = {name: j for j, name in enumerate(corrector.names)}
    items = [place[i] if corrector.names else int(i) for i in rows["id"].to_pylist()]
    found = np.asarray(rows["_distance"]).reshape(-1, K)
    scores = to_scores(corrector, queries, found if space == "l2" else 1 - found, space)
    check_top(corrector, queries, np.array(items).reshape(-1, K), scores)


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES)
def test_qdrant_agrees_for_every_query(side, tmp_path, space):
    qdrant_client = pytest.importorskip("qdrant_client", reason="pip install qdrant-client")
    corrector, queries = side
    if space != "ip" and not corrector.names:
        pytest.skip("the constructions in one direction: every point takes a millisecond to write")
    done = export(corrector, tmp_path / "db", "qdrant", space=space)
    client = qdrant_client.QdrantClient(path=str(done.path))
    distance = client.get_collection("gallery").config.params.vectors.distance
    assert distance.value == {"ip": "Dot", "cosine": "Cosine", "l2": "Euclid"}[space]
    answers = [
        client.query_points("gallery", query=q, limit=K).points
        for q in query_vectors(corrector, queries, space)
    ]
    client.close()
    items, found = (
        np.array([[getattr(p, a) for p in x] for x in answers]) for a in ("id", "score")
    )
    scores = to_scores(corrector, queries, found**2 if space == "l2" else found, space)
    check_top(corrector, queries, items, scores)
    names = corrector.names or [str(j) for j in range(945)]
    assert all(p.payload == {"id": names[p.id]} for x in answers for p in x)


# --- examples -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "library"),
    [("serve_faiss", "faiss"), ("serve_lancedb", "lancedb"), ("serve_qdrant", "qdrant_client")],
)
def test_examples_run(name, library, capsys, monkeypatch, tmp_path):
    pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    shown = capsys.readouterr().out
    before, after = (
        float(re.search(rf"R@1 {w} +([\d.]+) %", shown)[1]) for w in ("before", "after")
    )
    assert after > before + 3
    assert "same top 10 as Reranker.search: 945 of 945 queries" in shown
    assert not list(tmp_path.iterdir())
