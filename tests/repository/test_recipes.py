"""The recipes do what they say: commands run, Python runs or names what exists."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from pyarrow import parquet

import emcl_plugin
from emcl_plugin.adapters import ADAPTERS
from emcl_plugin.adapters import lightning as callback
from emcl_plugin.cli.main import command

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))
from producers import Items, batched, clip4clip, drl, mmt, padded, weight_networks

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECIPES = sorted(p for p in (DOCS / "recipes").glob("*.md") if p.stem != "index")
PAGES = [DOCS / "adapters.md", DOCS / "serving.md", *RECIPES]
BLOCK = re.compile(r"^( *)```(sh|python)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
HERE = {*sys.stdlib_module_names, "numpy", "torch", "emcl_plugin"}
HERE |= {"faiss", "lancedb", "qdrant_client"}


def blocks(page):
    """(kind, text) of every block that is run or read."""
    found = BLOCK.findall(page.read_text())
    return [(kind, re.sub(f"^{indent}", "", text, flags=re.M)) for indent, kind, text in found]


# --- what the pages work on -------------------------------------------------------------------

SCRIPT = """
def _run_on_single_gpu(model, *parts):
    return rows
def compute_metrics(sim):
    pass
tensor_text_to_video_metrics = compute_metrics
def main():
    sim = np.concatenate(_run_on_single_gpu(model, *parts))
    if counts is None:
        return compute_metrics(sim)
    return tensor_text_to_video_metrics(padded(sim, counts))
"""
TRAINING = """
class Trainer:
    def _get_embeddings(self, loader):
        return embeddings
def main_train():
    found = Trainer()._get_embeddings(None)
    del found["query_masks"]
    return sharded_cross_view_inner_product(**found)
"""


def script(source, **names):
    """A retriever's own program."""
    module = types.ModuleType("somebodys_program")
    vars(module).update(names, np=np, padded=padded)
    exec(source, vars(module))
    return module


def clip4clip_script(extra=()):
    items = Items(videos=60, many=True)
    text, rows = clip4clip(items)
    masks = [(mask[:, None],) for mask in batched(items.video_mask)]
    parts = [None, masks, batched(text), *extra, batched(items.video)]
    clip = types.SimpleNamespace(logit_scale=torch.tensor(np.log(100.0)))
    model = types.SimpleNamespace(clip=clip, sim_header="meanP")
    return script(SCRIPT, model=model, parts=parts, rows=rows, counts=items.counts)


def drl_script():
    items = Items(videos=60)
    nets = weight_networks(items.dimension)
    model = types.SimpleNamespace(
        interaction="wti", text_weight_fc=nets[0], video_weight_fc=nets[1]
    )
    parts = [items.text_mask, items.video_mask, items.text, items.video]
    return script(SCRIPT, model=model, parts=parts, rows=drl(items, "wti", nets), counts=None)


def mmt_script():
    given, sims = mmt(videos=60)
    given["query_masks"] = torch.tensor(given["query_masks"])
    return script(
        TRAINING, embeddings=given, sharded_cross_view_inner_product=lambda **_: torch.tensor(sims)
    )


RETRIEVERS = {
    "main_task_retrieval": clip4clip_script,
    "infer_retrieval": clip4clip_script,
    "main_xclip": lambda: clip4clip_script(extra=[None]),
    "main": drl_script,
    "main_retrieval": drl_script,
    "train": mmt_script,
    "tvr.models.modeling": lambda: types.SimpleNamespace(
        DRL=type("DRL", (), {"get_text_feat": None})
    ),
}
"""Stand-ins for the programs that the recipes import."""


def of_mmt():
    given, sims = mmt(videos=60)
    mask = given["query_masks"]
    np.save("MSRVTT-test-sims.npy", {"sims": sims, "query_masks": mask})
    np.save("sims.npy", sims)
    np.save("query_masks.npy", mask)
    Path("tt-ce-test-captions-test-videos-seed0.pkl").write_bytes(pickle.dumps(sims))
    Path("tt-ce-test-query_masks.pkl").write_bytes(pickle.dumps(mask))
    return {}


def of_drl():
    items = Items(videos=60)
    nets = weight_networks(items.dimension)
    weights = {"text_weights": nets[0](items.text), "video_weights": nets[1](items.video)}
    sides = ("text", "video", "text_mask", "video_mask")
    np.savez(
        "tokens.npz",
        **{name: getattr(items, name) for name in sides},
        **{name: found.squeeze(2) for name, found in weights.items()},
    )
    return {}


def of_emcl_net():
    sims = np.concatenate(clip4clip(Items(videos=60))[1])
    np.save("dump.npy", {"sims": sims.T})
    np.save("plain.npy", sims)
    return {}


def vectors(many=False):
    """Text and video embeddings, and every text's video."""
    items = Items(videos=60, many=many)
    return items.text[:, 0].numpy(), items.video.mean(1).numpy(), items.index


def of_clip_models():
    text, video, index = vectors(many=True)
    np.savez("clip.npz", texts_emb=text, images_emb=video, texts_image_index=index)
    text, video, _ = vectors()
    np.savez("hf.npz", text_embeds=text, image_embeds=video)
    for side, rows in (("text_emb", text), ("img_emb", video)):
        folder = Path("embeddings") / side
        folder.mkdir(parents=True)
        np.save(folder / f"{side}_0.npy", rows.astype(np.float16))
    Path("embeddings/metadata").mkdir()
    names = [f"p{i}" for i in range(len(text))]
    parquet.write_table(pa.table({"image_path": names}), "embeddings/metadata/metadata_0.parquet")
    unit = [torch.nn.functional.normalize(torch.tensor(x), dim=1) for x in (text, video)]
    return {
        "outputs": types.SimpleNamespace(
            text_embeds=unit[0], image_embeds=unit[1], logits_per_text=100 * unit[0] @ unit[1].T
        ),
        "queries": text,
        "corpus": video,
        "query_ids": names,
        "corpus_ids": names,
        "relevant_docs": {name: {name} for name in names},
    }


def of_mp4():
    text, video, index = vectors(many=True)
    for name, array in {"text": text, "video": video, "gt": index, "new": text[:7]}.items():
        np.save(f"{name}.npy", array)
    Path("videos.txt").write_text("\n".join(f"v{i}.mp4" for i in range(len(video))))
    Path("captions.txt").write_text("\n".join(f"caption {i}" for i in range(len(text))))
    return {}


def of_own_loop():
    text, video, index = vectors(many=True)
    dataset = [
        {"caption": text[i], "frames": video[j], "video_id": f"v{j}", "caption_id": f"c{i}"}
        for i, j in enumerate(index)
    ]
    model = types.SimpleNamespace(encode_text=lambda x: x, encode_video=lambda x: x)
    loader = torch.utils.data.DataLoader(dataset, batch_size=16)
    return {"model": model, "dataset": dataset, "loader": loader}


def of_files():
    text, video, index = vectors(many=True)
    for name, array in {"text": text, "video": video, "gt": index}.items():
        np.save(f"{name}.npy", array)
    return {}


def of_fitted():
    text, video, _ = vectors()
    names = [f"v{i}" for i in range(len(video))]
    emcl_plugin.Reranker().fit(text, video, names=names).save_pretrained("fitted")
    np.save("q.npy", text[:7])
    return {}


FILES = {
    "adapters": dict,
    "clip-models": of_clip_models,
    "clip4clip": dict,
    "drl": of_drl,
    "emcl-net": of_emcl_net,
    "faiss": of_fitted,
    "huge": of_files,
    "lancedb": of_fitted,
    "many-captions": of_files,
    "mmt": of_mmt,
    "mp4": of_mp4,
    "other-stores": of_fitted,
    "own-loop": of_own_loop,
    "pgvector": of_fitted,
    "qdrant": of_fitted,
    "serving": dict,
    "several-gpus": of_files,
}
"""What is there before a page begins; returns the names that its Python takes for granted."""


# --- running ----------------------------------------------------------------------------------


def run_commands(block):
    """Run the lines that need nothing but this package; says how many."""
    lines = block.replace("\\\n", " ").splitlines()
    for line in lines:
        words = shlex.split(line)
        if words[0] in ("mkdir", "cp"):
            subprocess.run(words, check=True)
        elif words[0] == "emcl-rerank":
            done = CliRunner().invoke(command, words[1:])
            assert done.exit_code == 0, f"{line}\n{done.output}"
            assert "Traceback" not in done.output
    return sum(line.startswith("emcl-rerank ") for line in lines)


def run_python(block, names, monkeypatch):
    """Run a block if it can be run here; says whether."""
    imported = {module for module, _ in imports(ast.parse(block))}
    own = imported & RETRIEVERS.keys()
    if any(module.split(".")[0] not in HERE for module in imported - own):
        return False
    with monkeypatch.context() as patch:
        for module in own:
            patch.setitem(sys.modules, module, RETRIEVERS[module]())
        exec(compile(block, "recipe", "exec"), names)
    return True


@pytest.fixture
def one_process(monkeypatch, tmp_path):
    """As torchrun starts the only one, and NumPy as it was."""
    process = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in process.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    before = dict(vars(np))
    yield
    for name in {"bool", "float", "long"} - before.keys():
        vars(np).pop(name, None)


@pytest.mark.filterwarnings("ignore::emcl_plugin.EmclWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.usefixtures("one_process")
def test_a_page_runs_from_top_to_bottom(page, monkeypatch):
    names = FILES[page.stem]()
    ran = {"sh": 0, "python": 0}
    for kind, block in blocks(page):
        if kind == "sh":
            ran[kind] += run_commands(block)
        else:
            ran[kind] += run_python(block, names, monkeypatch)
    assert all(ran.values()), ran


# --- reading ----------------------------------------------------------------------------------


def imports(tree):
    """(module, name or None) of everything that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def check_names(block):
    """Check that names and keywords of this package exist; return how many were checked."""
    tree, known, checked = ast.parse(block), {}, 0
    for module, name in imports(tree):
        if module.split(".")[0] == "emcl_plugin" and name is not None:
            known[name] = getattr(importlib.import_module(module), name)
            checked += 1
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in known:
            wrong = {k.arg for k in node.keywords if k.arg} - accepted(known[node.func.id])
            assert not wrong, f"{node.func.id} has no {', '.join(wrong)}"
            checked += 1
    return checked


def accepted(called):
    """Return the keywords of a function or class; ``**`` passes on those of `rescore`."""
    makers = called.__mro__ if isinstance(called, type) else [called]
    own = [home for home in makers if home.__module__.startswith("emcl_plugin")]
    found = [p for maker in own for p in inspect.signature(maker).parameters.values()]
    if any(p.kind is p.VAR_KEYWORD for p in found):
        found += inspect.signature(emcl_plugin.rescore).parameters.values()
    return {p.name for p in found}


@pytest.fixture
def lightning(monkeypatch):
    """Replace Lightning, so that the callback can be defined without it."""
    stub = types.SimpleNamespace(Callback=type("Callback", (), {}))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", stub)
    kept = vars(callback).pop("RerankCallback", None)
    yield
    vars(callback).pop("RerankCallback", None)
    if kept is not None:
        callback.RerankCallback = kept


@pytest.mark.usefixtures("lightning")
def test_python_names_what_exists():
    found = [check_names(block) for page in PAGES for kind, block in blocks(page) if kind != "sh"]
    assert len(found) > 20
    assert sum(found) > 50


def messages():
    """The texts of the package: whole ones, and patterns of those that are filled in."""
    whole, patterns = [], set()
    for path in Path(emcl_plugin.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (getattr(x, "value", None) for x in node.values)
                patterns.add("".join(re.escape(x) if isinstance(x, str) else ".+" for x in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                whole.append(node.value)
    return "\n".join(whole), {pattern for pattern in patterns if len(pattern) > 12}


def test_messages_are_those_of_the_package():
    foreign = {"unrecognized arguments: --local-rank", "is not in list"}  # of others, as they say
    foreign |= {"expects a non-empty TensorList"}
    shown = {
        message
        for page in PAGES
        for table in page.read_text().split("| message | why |")[1:]
        for cell in re.findall(r"^\| (`.*?`) \|", table, flags=re.MULTILINE)
        for message in re.findall(r"`([^`]+)`", cell)
    }
    assert len(shown) > 20
    whole, patterns = messages()
    for message in shown - foreign:
        assert message in whole or any(re.fullmatch(p, message) for p in patterns), message


def test_every_adapter_is_in_the_table():
    rows = re.findall(r"^\|[^|]*\| `(\S+)` \| `(\w+)` \|", PAGES[0].read_text(), flags=re.MULTILINE)
    assert dict(rows) == {name: kind.__name__ for name, kind in ADAPTERS.items()}
