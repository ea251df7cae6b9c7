"""Exported vectors rank in real vector stores as the corrector does, in all three spaces."""

from __future__ import annotations

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from emcl_plugin import Reranker
from emcl_plugin.baselines import METHODS
from emcl_plugin.demo import load_demo
from emcl_plugin.errors import EmclError, InputFileError, InputTypeError, InputValueError
from emcl_plugin.export import WRITERS, export
from emcl_plugin.serving import (
    MissingLibraryError,
    gallery_vectors,
    longest,
    query_vectors,
    require_servable,
    search_faiss,
    to_faiss,
    to_scores,
)
from emcl_plugin.spaces import SPACES, items_in, lengths, queries_in, scores_in

faiss = pytest.importorskip("faiss", reason='serving from FAISS needs pip install ".[cpu]"')

ROOT = Path(__file__).parents[1]
K = 10


@pytest.fixture(scope="module", params=["text -> video", "video -> text"])
def side(request):
    """(corrector, queries) of a direction of the demo."""
    demo = load_demo()
    if request.param == "text -> video":
        return fitted(demo.text_bank, demo.video, names=demo.video_names), demo.text
    return fitted(demo.video_bank, demo.text), demo.video


@pytest.fixture(scope="module")
def forward():
    demo = load_demo()
    return fitted(demo.text_bank, demo.video, names=demo.video_names), demo.text


def fitted(bank, gallery, **options):
    names = options.pop("names", ())
    return Reranker(**options).fit(bank, gallery, names=names).corrector_


def all_scores(corrector, queries):
    return torch.cat(list(corrector.scores(queries))).numpy()


def check_top(corrector, queries, items, scores=None, atol=1e-5):
    """The items found are the best, in order, but for ties within ``atol``."""
    assert items.shape == (len(queries), K)
    assert (items >= 0).all()
    assert all(len(set(row)) == K for row in items.tolist())
    expected, _ = (x.numpy() for x in corrector.search(queries, K))
    found = np.take_along_axis(all_scores(corrector, queries), items, axis=1)
    assert_allclose(found, expected, rtol=0, atol=atol)
    if scores is not None:
        assert_allclose(scores, expected, rtol=0, atol=atol)


def recall(corrector, queries, items):
    best = corrector.search(queries, K)[1].numpy()
    return np.mean([len({*a} & {*b}) / K for a, b in zip(items, best, strict=True)])


# --- the vectors --------------------------------------------------------------------------------


def test_inner_products_are_the_scores(side):
    corrector, queries = side
    items, asked = gallery_vectors(corrector), query_vectors(corrector, queries)
    assert items.shape == (945, 129)
    assert asked.shape == (945, 129)
    assert items.dtype == asked.dtype == np.float32
    assert_allclose(asked @ items.T, all_scores(corrector, queries), atol=1e-5)
    assert corrector.bias.std() > 0.01  # or all of this would pass without the last dimension
    assert len(corrector.change)


def test_the_gate_is_in_the_query_vectors(forward):
    corrector, queries = forward
    gate = query_vectors(corrector, queries)[:, -1]
    assert 0.8 < gate.mean() < 1
    assert ((gate >= 0) & (gate <= 1)).all()
    other = np.random.default_rng(0).standard_normal((50, 128))
    assert query_vectors(corrector, other)[:, -1].mean() < 0.15


@pytest.mark.parametrize("space", SPACES)
def test_a_query_vector_depends_on_no_other_query(forward, space):
    corrector, queries = forward
    whole = query_vectors(corrector, queries[:70], space)
    for i in (0, 31, 32, 69):
        assert_array_equal(query_vectors(corrector, queries[i : i + 1], space)[0], whole[i])


@pytest.mark.parametrize("space", SPACES)
def test_scores_come_back_from_every_space(side, space):
    corrector, queries = side[0], side[1][:100]
    items, asked = gallery_vectors(corrector, space), query_vectors(corrector, queries, space)
    found = asked @ items.T
    if space == "l2":
        found = np.square(asked[:, None, :] - items[None]).sum(2)
    assert_allclose(
        to_scores(corrector, queries, found, space), all_scores(corrector, queries), atol=1e-5
    )


def test_vectors_that_are_normalised_again_stay(side):
    corrector, queries = side
    for x in (gallery_vectors(corrector, "cosine"), query_vectors(corrector, queries, "cosine")):
        assert_allclose(lengths(x), 1, atol=1e-6)


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


# --- the constructions, on any vectors ----------------------------------------------------------


@st.composite
def problems(draw):
    """Items and queries of any lengths, some zero, and room above the longest item."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(1, 40)), draw(st.integers(1, 24))
    size = 10.0 ** draw(st.integers(-3, 3))
    spread = draw(st.sampled_from([0.0, 0.1, 3.0]))
    x = size * rng.standard_normal((n, d)) * np.exp(spread * rng.standard_normal((n, 1)))
    q = rng.standard_normal((8, d)) * 10.0 ** draw(st.integers(-2, 2))
    if draw(st.booleans()):
        x[rng.integers(n)] = 0
    return x.astype(np.float32), q.astype(np.float32), draw(st.sampled_from([1.0, 1.2, 5.0]))


@given(problem=problems())
def test_constructions_rank_by_the_inner_product(problem):
    x, q, room = problem
    phi = room * float(lengths(x).max()) or 1.0
    truth = q.astype(np.float64) @ x.T.astype(np.float64)
    bound = 2e-6 * (phi**2 + lengths(q)[:, None] ** 2)
    best = -np.sort(-truth, axis=1)

    items, asked = items_in("l2", x, phi=phi), queries_in("l2", q)
    assert_allclose(lengths(items), phi, rtol=1e-6)
    distances = np.square(asked[:, None].astype(np.float64) - items).sum(2)
    order = distances.argsort(1)
    assert (np.abs(np.take_along_axis(truth, order, 1) - best) <= bound).all()
    assert (np.abs(scores_in("l2", distances, q, phi) - truth) <= bound).all()

    items, asked = items_in("cosine", x, phi=phi), queries_in("cosine", q)
    assert_allclose(lengths(items), 1, rtol=1e-6)
    assert_allclose(lengths(asked), 1, rtol=1e-6)
    cosines = asked.astype(np.float64) @ items.T.astype(np.float64)
    order = (-cosines).argsort(1)
    bound = 2e-6 * phi * lengths(q)[:, None]
    assert (np.abs(np.take_along_axis(truth, order, 1) - best) <= bound).all()
    assert (np.abs(scores_in("cosine", cosines, q, phi) - truth) <= bound).all()


@given(problem=problems())
def test_inner_products_are_passed_on_as_they_are(problem):
    x, q, _ = problem
    assert_array_equal(items_in("ip", x), x)
    assert_array_equal(queries_in("ip", q), q)
    assert_array_equal(scores_in("ip", q @ x.T, q, 1.0), q @ x.T)


def test_nothing_but_zeros():
    zeros = np.zeros((2, 3), np.float32)
    assert_array_equal(items_in("l2", zeros), np.zeros((2, 4)))
    assert_array_equal(items_in("cosine", zeros), [[0, 0, 0, 1]] * 2)
    assert_array_equal(queries_in("cosine", zeros), np.zeros((2, 4)))


@pytest.mark.parametrize("space", ["l2", "cosine"])
def test_an_item_longer_than_phi_is_an_error(space):
    x = np.array([[1.0, 0], [0, 2.0]])
    with pytest.raises(InputValueError, match="longer than phi") as caught:
        items_in(space, x, phi=1.9)
    assert "item 1 of length 2" in caught.value.received
    items_in(space, x, phi=2 * (1 - 1e-7))  # rounding is none


@pytest.mark.parametrize("phi", [0.0, -1.0, np.nan, np.inf])
def test_phi_is_a_length(phi):
    with pytest.raises(InputValueError, match="phi is the length"):
        items_in("l2", np.ones((1, 2)), phi=phi)


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
        (faiss.index_factory(129, "L2norm,Flat", 0), "ip", InputValueError, "unit length"),
        ("IDMap,L2norm,Flat", "ip", InputValueError, "unit length"),
        ("L2norm,Flat", "l2", InputValueError, "unit length"),
        ("flatt", "ip", InputValueError, "no such index.*flatt"),
        ("LSH", "ip", InputValueError, "no such index"),
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


@pytest.mark.parametrize("space", ["cosine", "l2"])
def test_a_later_item_beyond_phi_is_an_error(forward, space):
    corrector, _ = forward
    long = replace(corrector, bias=corrector.bias.clone().index_fill_(0, torch.tensor([7]), 0.9))
    with pytest.raises(InputValueError, match=r"item 7 of length 1\.3"):
        gallery_vectors(long, space, phi=longest(corrector))


def test_missing_library(forward, monkeypatch, tmp_path):
    corrector, queries = forward
    for module in ("faiss", "pyarrow", "lancedb", "qdrant_client"):
        monkeypatch.setitem(sys.modules, module, None)
    for call, remedy in (
        (lambda: to_faiss(corrector), "emcl-plugin[cpu]"),
        (lambda: search_faiss(corrector, None, queries), "emcl-plugin[cpu]"),
        (lambda: export(corrector, tmp_path / "x", "faiss"), "emcl-plugin[cpu]"),
        (lambda: export(corrector, tmp_path / "x", "parquet"), "emcl-plugin[formats]"),
        (lambda: export(corrector, tmp_path / "x", "lancedb"), "pip install lancedb"),
        (lambda: export(corrector, tmp_path / "x", "qdrant"), "pip install qdrant-client"),
    ):
        with pytest.raises(MissingLibraryError) as caught:
            call()
        assert isinstance(caught.value, EmclError)
        assert isinstance(caught.value, ImportError)
        assert remedy in caught.value.remedy
    assert not list(tmp_path.iterdir())
    export(corrector, tmp_path / "x", "npy")


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_serve_are_told_from_those_that_do_not(name):
    if METHODS[name].serves:
        require_servable(name)
        return
    with pytest.raises(InputValueError, match="cannot be exported") as caught:
        require_servable(name)
    assert caught.value.received.startswith(f"{name}: ")
    listed = re.findall(r"[\w+-]+", caught.value.remedy)
    assert {method.name for method in METHODS.values() if method.serves} <= set(listed)
    assert not {method.name for method in METHODS.values() if not method.serves} & set(listed)


def test_own_and_unknown_methods():
    for name in ("emcl_plugin", "input", "+NCL", "ncl-even"):
        require_servable(name)
    with pytest.raises(InputValueError, match="no method has this name"):
        require_servable("magic")
    assert [m.name for m in METHODS.values() if not m.serves] == ["dis", "dsl", "dual-dis"]


# --- LanceDB and Qdrant -------------------------------------------------------------------------


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


# --- files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    """A corrector of few items, with and without names."""
    demo = load_demo()
    named = fitted(demo.text_bank, demo.video[:40], names=demo.video_names[:40])
    return named, replace(named, names=())


def kept(path):
    """Everything under a path, by name."""
    return {
        str(p.relative_to(path.parent)): p.read_bytes()
        for p in path.parent.rglob("*")
        if p.is_file()
    }


@pytest.mark.parametrize("to", WRITERS)
@pytest.mark.parametrize("space", SPACES)
def test_what_was_written_is_told(small, tmp_path, to, space):
    if WRITERS[to].library:
        pytest.importorskip(WRITERS[to].library)
    done = export(small[0], str(tmp_path / "out"), to, space=space)
    assert (done.path, done.to, done.space) == (tmp_path / "out", to, space)
    assert (done.count, done.dimension) == (40, 129 if space == "ip" else 130)
    assert done.phi == (None if space == "ip" else longest(small[0]))
    room = export(small[0], str(tmp_path / "room"), to, space=space, phi=3.0)
    assert room.phi == (None if space == "ip" else 3.0)


@pytest.mark.parametrize("space", SPACES)
def test_npy_and_its_ids(small, tmp_path, space):
    named, nameless = small
    export(named, tmp_path / "a", "npy", space=space, phi=2.0)
    assert_array_equal(np.load(tmp_path / "a/gallery.npy"), gallery_vectors(named, space, phi=2.0))
    lines = (tmp_path / "a/ids.txt").read_text(encoding="utf-8").split("\n")
    assert lines == [*named.names, ""]
    export(nameless, tmp_path / "b", "npy")
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["gallery.npy"]


@pytest.mark.parametrize("space", SPACES)
def test_parquet(small, tmp_path, space):
    parquet = pytest.importorskip("pyarrow.parquet", reason='pip install ".[formats]"')
    for corrector, ids in zip(small, (small[0].names, [str(j) for j in range(40)]), strict=True):
        path = tmp_path / f"{bool(corrector.names)}.parquet"
        export(corrector, path, "parquet", space=space)
        table = parquet.read_table(path)
        expected = gallery_vectors(corrector, space)
        assert table.column_names == ["id", "vector"]
        assert str(table.schema.field("vector").type).startswith("fixed_size_list<")
        assert table.schema.field("vector").type.list_size == expected.shape[1]
        assert table["id"].to_pylist() == list(ids)
        assert_array_equal(np.stack(table["vector"].to_numpy()), expected)


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF4,Flat"])
def test_faiss_file_and_its_ids(small, tmp_path, factory):
    named, nameless = small
    path = tmp_path / "g.faiss"
    export(named, path, "faiss", factory=factory)
    index = faiss.read_index(str(path))
    kinds = {
        "Flat": faiss.IndexFlat,
        "HNSW16": faiss.IndexHNSWFlat,
        "IVF4,Flat": faiss.IndexIVFFlat,
    }
    assert isinstance(index, kinds[factory])
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    assert index.ntotal == 40
    if factory == "Flat":
        assert_array_equal(index.reconstruct_n(0, 40), gallery_vectors(named))
        export(named, tmp_path / "l2", "faiss", space="l2", phi=3.0)
        wide = faiss.read_index(str(tmp_path / "l2")).reconstruct_n(0, 40)
        assert_array_equal(wide, gallery_vectors(named, "l2", phi=3.0))
    beside = tmp_path / "g.faiss.ids.txt"
    assert beside.read_text(encoding="utf-8").split("\n") == [*named.names, ""]
    export(nameless, path, "faiss", force=True)  # whose ids are no longer those
    assert not beside.exists()
    beside.write_text("other\n")
    path.unlink()
    with pytest.raises(InputFileError, match=r"there already(?s:.)*ids\.txt"):
        export(nameless, path, "faiss")


@pytest.mark.parametrize("to", WRITERS)
def test_a_target_is_replaced_on_demand_only(small, tmp_path, to):
    if WRITERS[to].library:
        pytest.importorskip(WRITERS[to].library)
    target = tmp_path / "out"
    export(small[0], target, to)
    before = kept(target)
    with pytest.raises(InputFileError, match="there already"):
        export(small[0], target, to)
    assert kept(target) == before
    export(small[0], target, to, space="l2", force=True)
    assert kept(target) != before
    again = small[0].without([0])
    assert export(again, target, to, force=True).count == 39
    assert {p.name for p in tmp_path.iterdir()} <= {"out", "out.ids.txt"}
    assert target.stat().st_mode & 0o077 == (0o055 if target.is_dir() else 0o044)


@pytest.mark.parametrize("to", ["npy", "lancedb", "qdrant"])
@pytest.mark.parametrize("other", ["notes.txt", "collection/mine/x", "gallery.lance.old/x"])
def test_a_folder_with_anything_else_is_never_replaced(small, tmp_path, to, other):
    if WRITERS[to].library:
        pytest.importorskip(WRITERS[to].library)
    target = tmp_path / "out"
    export(small[0], target, to)
    (target / other).parent.mkdir(parents=True, exist_ok=True)
    (target / other).write_text("mine")
    before = kept(target)
    with pytest.raises(InputFileError, match="something else"):
        export(small[0], target, to, force=True)
    assert kept(target) == before


def test_targets_that_cannot_be(small, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for target, to, words in (
        ("file", "npy", "is a file"),
        ("folder", "faiss", "is a folder"),
        ("folder", "npy", "there already"),
        ("nowhere/out", "npy", "does not exist"),
        ("nowhere/out", "faiss", "does not exist"),
    ):
        with pytest.raises(InputFileError, match=words):
            export(small[0], tmp_path / target, to)
    with pytest.raises(InputFileError, match="is a file"):
        export(small[0], tmp_path / "file", "npy", force=True)
    assert (tmp_path / "file").read_text() == "mine"
    export(small[0], tmp_path / "folder", "npy", force=True)  # an empty one costs nothing
    assert (tmp_path / "folder/gallery.npy").is_file()


def fail(*_, **__):
    raise RuntimeError("the disk is full")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("to", "broken"),
    [
        ("faiss", "faiss.write_index"),
        ("npy", "emcl_plugin.export._lines"),
        ("parquet", "pyarrow.parquet.write_table"),
        ("lancedb", "lancedb.db.LanceDBConnection.create_table"),
        ("qdrant", "qdrant_client.QdrantClient.upload_collection"),
    ],
)
def test_a_failure_leaves_nothing_and_loses_nothing(
    small, tmp_path, monkeypatch, to, broken, force
):
    if WRITERS[to].library:
        pytest.importorskip(WRITERS[to].library)
    target = tmp_path / "out"
    if force:
        export(small[0], target, to)
    before = kept(target)
    monkeypatch.setattr(broken, fail)
    with pytest.raises(InputFileError, match="nothing was written") as caught:
        export(small[0], target, to, force=force)
    assert "the disk is full" in caught.value.received
    assert kept(target) == before
    assert {p.name for p in tmp_path.iterdir()} <= {"out", "out.ids.txt"}
    assert force == target.exists()


def test_a_swap_that_fails_brings_the_old_one_back(small, tmp_path, monkeypatch):
    target = tmp_path / "out"
    export(small[0], target, "npy")
    before = kept(target)
    rename = Path.rename

    def only_away(self, other):
        if self.name.endswith(".part"):
            raise OSError(5, "no")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", only_away)
    with pytest.raises(InputFileError, match="nothing was written"):
        export(small[0], target, "npy", space="l2", force=True)
    assert kept(target) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("to", ["faiss", "npy"])
@pytest.mark.parametrize("sign", ["\n", "\r"])
def test_names_that_are_no_lines(small, tmp_path, to, sign):
    corrector = replace(small[0], names=(*small[0].names[1:], f"two{sign}lines"))
    with pytest.raises(InputValueError, match="line break"):
        export(corrector, tmp_path / "out", to)
    assert not list(tmp_path.iterdir())
    pytest.importorskip("pyarrow")
    export(corrector, tmp_path / "out", "parquet")


def test_wrong_stores_and_settings(small, tmp_path):
    for arguments, words in (
        ({"to": "redis"}, "no such store"),
        ({"to": "npy", "factory": "HNSW32"}, "FAISS only"),
        ({"to": "npy", "space": "l1"}, "no such space"),
        ({"to": "npy", "space": "l2", "phi": 0.5}, "longer than phi"),
        ({"to": "faiss", "factory": "IVF41,Flat"}, "cannot fill"),
    ):
        with pytest.raises(InputValueError, match=words):
            export(small[0], tmp_path / "out", **arguments)
        assert not list(tmp_path.iterdir())


# --- examples and documentation -----------------------------------------------------------------


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


def test_python_in_the_documentation_runs(monkeypatch, tmp_path):
    """The blocks of docs/serving.md, one after the other, as one would try them."""
    for library in ("lancedb", "qdrant_client"):
        pytest.importorskip(library)
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        if "psycopg" not in block:  # which needs a server
            exec(compile(block, "docs/serving.md", "exec"), names)
    names["client"].close()
