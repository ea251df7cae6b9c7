"""Every way in which the command line says no, in one table.

The rule: status 2 is wrong usage, which the command line shows by itself, whatever the files are
(it comes in an empty folder, too); status 1 is all that went wrong with files, data and machine.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import pickle
import re
import shlex
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

import click
import h5py
import numpy as np
import pytest
import torch

import emcl_plugin
from emcl_plugin import Reranker
from emcl_plugin.cli.main import main
from emcl_plugin.errors import EmclError
from emcl_plugin.pipeline.job import Job

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("fsspec")
pytest.importorskip("faiss")

HOME = Path(emcl_plugin.__file__).parent
N = 12


@dataclass(frozen=True, eq=False)
class Row:
    """A command line without its ``emcl-rerank``, its exit status, and words of its message.

    Only those that are ``late`` come during the correction.
    """

    line: str
    status: int
    words: str
    stdin: bytes = b""
    env: dict[str, str] = field(default_factory=dict)
    late: bool = False


BOTH = "--text t.npy --video v.npy"
SIM = "--sim s.npy"
FIT = "fit --text-bank tb.npy --video v.npy --save new"
PAIRS = "tune --text-bank tb.npy --video-bank vb.npy"
EXPORT = "export fitted --to npy -o out"
MAIN_GT = f"{BOTH} --gt"
JOB = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
NEWLINES = "'a\nb'"

USAGE = [
    # what there is to work on
    Row("", 2, "give --text and --video, --sim, or --from; or try 'emcl-rerank demo'"),
    Row("--text t.npy", 2, "--text needs --video: give both, or --sim"),
    Row("--video v.npy", 2, "--video needs --text"),
    Row(f"{SIM} --from mmt m.npz", 2, "omit --text, --video and --sim"),
    Row("--text - --video -", 2, "only one option can read standard input"),
    Row("--sim ''", 2, "the file name is empty"),
    Row("--text t.npy --text-bank tb.npy --video v.npy --sim s.npy", 2, "without --sim"),
    Row(f"{BOTH} --text-bank tb.npy --check-leak", 2, "no text depends on another"),
    # options that click knows
    Row("--tetx t.npy", 2, "No such option '--tetx'. (Did you mean one of: '--quiet', '--text'"),
    Row("--outptu o.npy", 2, "Did you mean one of: '--output'"),
    Row("sho fitted", 2, "No such command 'sho'. Did you mean 'show'?"),
    Row("t.npy v.npy", 2, "unexpected argument t.npy: pass files with options"),
    Row("apply --txet q.npy fitted", 2, "Did you mean"),
    Row(f"{SIM} --prior evn", 2, "'evn' is not one of 'auto', 'even', 'gentle', 'off'"),
    Row(f"{SIM} --iterations 0", 2, "0 is not in the range x>=1"),
    Row(f"{SIM} --iterations many", 2, "'many' is not a valid integer"),
    Row(f"{SIM} --temperature -1", 2, "is not in the range"),
    Row(f"{SIM} --orientation up", 2, "is not one of"),
    Row(f"{SIM} --from", 2, "requires 2 arguments"),
    Row("--from vhs x.npz", 2, "'vhs' is not one of"),
    Row("show", 2, "Missing argument 'DIR'"),
    Row("show fitted other", 2, "Got unexpected extra argument (other)"),
    Row("serve fitted --port 70000", 2, "70000 is not in the range"),
    Row("serve fitted --port -1", 2, "-1 is not in the range"),
    Row("serve fitted --max-k 0", 2, "0 is not in the range"),
    Row("demo --save t.npy/x --nosuch", 2, "No such option '--nosuch'"),
    Row("compare --demo --format word", 2, "'word' is not one of"),
    Row(SIM, 2, "'lots' is not a valid integer", env={"EMCL_RERANK_ITERATIONS": "lots"}),
    Row(f"{SIM} --no\x1b[31msuch", 2, "No such option '--no\\x1b[31msuch'"),
    Row(f"{SIM} show fitted", 2, "--sim does not go with the sub-command show"),
    Row(f"{SIM} --prior off --temperature 1", 2, "--temperature does not go with --prior off"),
    Row(f"{SIM} --prior gentle --ncl off", 2, "--prior gentle does not go with --ncl off"),
    Row(f"{SIM} --temperature nan", 2, "positive"),
    Row(f"{BOTH} --emcl off --seed 1", 2, "--seed does not go with --emcl off"),
    Row(f"{BOTH} --resume c --prior off", 2, "NCL is off"),
    Row(f"{SIM} --text-bank tb.npy", 2, "need embeddings: give --text and --video, without --sim"),
    Row("eval --text t.npy", 2, "--text needs --video"),
    Row("compare", 2, "no input"),
    Row("compare --demo --measures P@5", 2, "unknown measure P@5"),
    Row("apply fitted --text t.npy --top 0", 2, "0 is not in the range"),
    Row("export fitted --to redis -o x", 2, "'redis' is not one of"),
    Row("export fitted --to npy -o x --space l2 --phi 0", 2, "0.0 is not in the range"),
    # several processes
    Row("show fitted", 2, "show runs in one process: start it without torchrun", env=JOB),
    Row(f"{MAIN_GT} diagonal --report r.html", 2, "--report needs a single process", env=JOB),
    Row("--text - --video v.npy", 2, "several processes cannot read standard input", env=JOB),
    Row(BOTH, 2, "RANK=0 and WORLD_SIZE=many do not describe", env={**JOB, "WORLD_SIZE": "many"}),
    Row(BOTH, 2, "RANK=2 and WORLD_SIZE=2 do not describe a job", env={**JOB, "RANK": "2"}),
    # settings that contradict one another
    Row(f"{SIM} --memory lots", 2, "write for example 4G or 800M"),
    Row(f"{SIM} --memory {'9' * 400}G", 2, "this is not a memory size"),
    Row(f"{SIM} --measures P@3", 2, "--measures: unknown measure P@3; use R@K, MdR"),
    Row(f"{SIM} --measures ,", 2, "--measures: unknown measure none"),
    Row("compare --demo --sort speed", 2, "--sort: unknown measure speed"),
    Row("compare --demo --methods input,magic", 2, "--methods: unknown method magic; use input,"),
    Row("compare --demo --sim s.npy", 2, "--demo has its own data: omit the files"),
    Row("compare --demo --from mmt x.npz", 2, "--demo has its own data: omit the files"),
    Row(f"{SIM} --report r.html", 2, "--report and --plots need ground truth: --gt FILE"),
    Row(f"{SIM} --seed 1", 2, "--seed needs embeddings"),
    Row(f"{SIM} --ncl off --temperature 1", 2, "--temperature does not go with --ncl off"),
    Row(f"{SIM} --ncl off --prior even", 2, "--prior even does not go with --ncl off"),
    Row(f"{BOTH} --emcl-strength nan", 2, "EMCL's strength must be finite, and within a million"),
    Row(f"{BOTH} --emcl-strength 1e300", 2, "-1 to 1 is usual"),
    Row(f"{BOTH} --seed {'9' * 40}", 2, "EMCL's seed must be a whole number of 64 bits"),
    Row(f"{BOTH} --resume c --ncl off", 2, "--resume stores NCL's iterations, and NCL is off"),
    Row(f"{BOTH} --resume c --text-bank tb.npy", 2, "--resume does not go with banks"),
    # candidates
    Row(f"{BOTH} --index Flat", 2, "--index needs --candidates"),
    Row(f"{SIM} --candidates 3 --run r.csv", 2, "--candidates needs embeddings"),
    Row(f"{BOTH} --candidates 3", 2, "--candidates writes no matrix: give --run"),
    Row(f"{BOTH} --candidates 3 --run r.csv --top 5", 2, "--top 5 exceeds --candidates 3"),
    Row(f"{BOTH} --candidates 3 --run r.csv -o m.npy", 2, "and no --output"),
    Row(f"{BOTH} --candidates 3 --run r.csv --text-bank tb.npy", 2, "without --sim and banks"),
    Row(f"{BOTH} --candidates 3 --run r.csv --plots p --gt ids", 2, "do not go with --candidates"),
    Row(f"{BOTH} --candidates 3 --run r.csv --check-leak", 2, "do not go with --candidates"),
    # outputs
    Row(f"{SIM} --top 3", 2, "--top needs --run or --run-v2t"),
    Row(f"{SIM} -o o.txt", 2, "--output o.txt: unsupported file type; use .npy"),
    Row(f"{SIM} --run $'o\x1b.txt'", 2, "o\\x1b.txt: unsupported file type"),
    Row(f"{SIM} -o o", 2, ".safetensors, .parquet"),
    Row(f"{SIM} --run r.npy", 2, "--run r.npy: unsupported file type; use .jsonl"),
    Row(f"{SIM} --run-v2t r.txt", 2, "--run-v2t r.txt: unsupported file type"),
    Row(f"{SIM} --run r.csv --top 0", 2, "0 is not in the range"),
    Row(f"{SIM} -o a.parquet --run a.parquet", 2, "two outputs are the same file"),
    Row(f"{SIM} --run a.csv --run-v2t ./a.csv", 2, "two outputs are the same file"),
    Row(f"{SIM} -o c.npy --resume ./c.npy", 2, "two outputs are the same file"),
    # correctors
    Row("fit --text-bank tb.npy --video v.npy", 2, "Missing option '--save'"),
    Row(f"{FIT} --sim s.npy", 2, "No such option '--sim'"),
    Row(f"{FIT} --text t.npy", 2, "for video queries; not both"),
    Row(f"{FIT} --ncl off --temperature 0.1", 2, "--temperature does not go with --ncl off"),
    Row(f"{FIT} --emcl off --seed 1", 2, "--seed does not go with --emcl off"),
    Row("fit --text t.npy --text-bank tb.npy --save new", 2, "is missing: give --video-bank"),
    Row("apply fitted --text t.npy --video v.npy", 2, "either --text or --video"),
    Row("apply fitted --text t.npy --top 3 -o o.npy", 2, "--top needs a .csv output, not o.npy"),
    Row(f"{PAIRS} --text t.npy --video v.npy --save new", 2, "not both"),
    Row(f"{PAIRS} --budget 0s", 2, "'0s' is not a time"),
    Row(f"{PAIRS} --cuts 0", 2, "0 is not in the range"),
    Row("fit --text-bank tb.npy --save new", 2, "give the gallery to search"),
    Row("fit --video v.npy --save new", 2, "is missing: give --text-bank"),
    Row("apply fitted", 2, "give the queries with either --text or --video"),
    Row("apply fitted --text t.npy -o o.csv", 2, "scores need an .npy output, not o.csv"),
    Row("tune --text-bank tb.npy", 2, "tuning needs pairs: give --text-bank and --video-bank"),
    Row(f"{PAIRS} --save new", 2, "--save needs the gallery to search"),
    Row(f"{PAIRS} --budget 5d", 2, "'5d' is not a time; use e.g. 60s, 5m or 1h"),
    Row("export fitted", 2, "nothing to write: give --to and --output, or --queries"),
    Row("export fitted --to npy", 2, "--to and --output need each other"),
    Row(f"{EXPORT} --queries t.npy", 2, "--queries and --queries-output need each other"),
    Row(f"{EXPORT} --factory Flat", 2, "--factory needs --to faiss"),
    Row(f"{EXPORT} --phi 2", 2, "--phi needs --space cosine or l2"),
]  # fmt: skip

FILES = [
    Row("--sim no.npy", 1, "the file does not exist\n  received: no.npy\n  to do:    check"),
    Row(f"--sim {NEWLINES}.npy", 1, "received: a\\nb.npy"),
    Row(f"--sim {'n' * 300}.npy", 1, "the file cannot be read"),
    Row("--sim pipe.npy", 1, "this is a pipe or a device, not a file"),
    Row("--sim zero.csv", 1, "this is a pipe or a device, not a file"),
    Row("--sim loop.npy", 1, "Too many levels of symbolic links"),
    Row("--sim words.xyz", 1, "unknown file format"),
    Row("--sim words.npy", 1, "not an .npy file"),
    Row("--sim zip.npy", 1, "rename it to end in .npz"),
    Row("--sim words.parquet", 1, "not a Parquet file"),
    Row("--sim words.pkl", 1, "--trust-pickle"),
    Row("--sim objects.npy", 1, "could run any code"),
    Row("--sim objects.npz", 1, "the file holds pickled Python objects"),
    Row("--sim evil.pkl --trust-pickle", 1, "builtins.eval"),
    Row("--sim evil.pt", 1, "the file holds Python objects, which could run any code"),
    Row("--sim cut.npy", 1, "damaged or cut short"),
    Row("--sim bomb.npz", 1, "the file claims to hold far more than there is in it"),
    Row("--sim two.npz", 1, "the file holds several arrays"),
    Row("--sim two.npz:c", 1, "name one of a, b"),
    Row("--sim none.npz", 1, "the file holds no array"),
    Row("--sim s.npy:a", 1, "omit the name: s.npy"),
    Row("--sim ids.npz:x", 1, "the number of ids is not that of the rows"),
    Row("--sim outside.h5", 1, "the data set lies in another file"),
    Row("--sim ragged.csv", 1, "the lines hold 2 and 1 numbers"),
    Row("--sim doubt.csv", 1, "may be column names or numbers"),
    Row("--sim mixed.csv", 1, "the first column mixes numbers and text"),
    Row("--sim text.csv", 1, "a cell is not a finite float32 number"),
    Row("--sim no.jsonl", 1, "does not exist"),
    Row("--sim bad.jsonl", 1, "a line is not JSON"),
    Row("--sim other.jsonl", 1, "a line is neither a list of numbers"),
    Row("--sim half.jsonl", 1, "some rows have an id and some none"),
    Row("--sim int.npy", 1, "astype"),
    Row("--sim nan.npy", 1, "sim[1, 2] = nan", late=True),
    Row("--sim flat.npy", 1, "two dimensions"),
    Row("--text flat.npy --video v.npy", 1, "text"),
    Row("--text narrow.npy --video v.npy", 1, "dimension"),
    Row("--text blank.npy --video v.npy", 1, "text[3]"),
    Row("--text t.npy --video v.npy --sim wide.npy", 1, "does not match the texts and videos"),
    # several files
    Row("--sim mixture", 1, "the files of the folder are not numbered parts of one"),
    Row("--sim kinds", 1, "the files are of several kinds"),
    Row("--sim empty", 1, "there are no files of a known kind"),
    Row("--sim 'no*.npy'", 1, "there are no files of a known kind"),
    Row("--sim shapes", 1, "the files cannot be concatenated"),
    Row("--sim nans", 1, "a part holds NaN or infinity"),
    Row("--sim links", 1, "the folder links to a file outside"),
    # standard input and addresses
    Row("--sim -", 1, "standard input is empty"),
    Row("--sim -", 1, "standard input has an unknown format", stdin=b"hello"),
    Row("--sim file:///nowhere/at/all.npy", 1, "the file cannot be fetched"),
    Row("--sim zzz://x.npy", 1, "Protocol not known: zzz"),
    # what a retriever wrote
    Row("--from mmt no.npz", 1, "does not exist"),
    Row("--from mmt words.xyz", 1, "files of this kind hold no arrays by name"),
    Row("--from mmt empty", 1, "there are no files of a known kind"),
    Row("--from mmt links", 1, "the folder links to a file outside"),
    Row("--from mmt words.pkl", 1, "--trust-pickle"),
    Row("--from mmt both.npz", 1, "a name stands for both an array and a group of arrays"),
    Row("--from mmt htob.npz", 1, "a name stands for both an array and a group of arrays"),
    Row("--from mmt file:///x/*.npy", 1, "there are no files of a known kind"),
    Row("--from mmt two.npz", 1, "no arrays of mmt found"),
    Row("--from mmt objects.npy", 1, "--trust-pickle"),
    Row("--from dbsn s.npy", 1, "cannot determine"),
    Row("--from emcl-net s.npy --subspaces 4", 2, "needs embeddings"),
    Row("--from open_clip two.npz --orientation video-text", 1, "no such setting"),
    Row("--from open_clip text.npz", 1, "no images_emb"),
    # ground truth
    Row(f"{MAIN_GT} no.npy", 1, "does not exist"),
    Row(f"{MAIN_GT} no.csv", 1, "the file cannot be read"),
    Row(f"{MAIN_GT} no.parquet", 1, "does not exist"),
    Row(f"{MAIN_GT} words.xyz", 1, "unknown ground-truth format"),
    Row(f"{MAIN_GT} diag", 1, "give diagonal, ids, or one of .npy"),
    Row(f"{MAIN_GT} flat.npy", 1, "flat.npy: 3 entries for 12 texts"),
    Row(f"{MAIN_GT} far.npy", 1, "far.npy: pair 0: video 99 of 12"),
    Row(f"{MAIN_GT} nan.npy", 1, "nan.npy: dtype float64"),
    Row(f"{MAIN_GT} words.parquet", 1, "not a Parquet file"),
    Row(f"{MAIN_GT} ids.parquet", 1, "the table has no columns text and video"),
    Row(f"{MAIN_GT} ragged.csv", 1, "the table has no columns text and video"),
    Row(f"{MAIN_GT} twice.csv", 1, "the table repeats a column"),
    Row(f"{MAIN_GT} long.csv", 1, "the table cannot be read"),
    Row(f"{MAIN_GT} grade.csv", 1, "a relevance grade is not a number"),
    Row(f"{MAIN_GT} inf.csv", 1, "is not finite"),
    Row(f"{MAIN_GT} wrong.csv", 1, "no text has a relevant video"),
    Row(f"{MAIN_GT} head.csv", 1, "give one row per right pair"),
    Row(f"{MAIN_GT} large.csv", 1, "'99999999999999999999'\n  to do:    give the ids with"),
    Row(f"{MAIN_GT} other.jsonl", 1, "an entry of the ground truth has no text or no video"),
    Row(f"{MAIN_GT} words.qrels", 1, "this is not TREC qrels"),
    Row(f"{MAIN_GT} ids", 1, "the ground truth by ids needs the ids of both sides"),
    Row(f"{MAIN_GT} ids --text-ids a.txt --video-ids b.txt", 1, "some texts have an id that no"),
    Row(f"{MAIN_GT} ids --text-ids a.txt --video-ids same.txt", 1, "two videos have the same id"),
    Row(f"{MAIN_GT} gt.csv --text-ids a.txt", 1, "check the ids, which --text-ids can replace"),
    Row(f"{MAIN_GT} diagonal --text-ids few.txt", 1, "few.txt: 2 lines for 12 items"),
    Row(f"{MAIN_GT} diagonal --text-ids pipe.npy", 1, "this is a pipe or a device"),
    Row(f"{MAIN_GT} diagonal --query-mask flat.npy", 1, "the query mask does not fit the texts"),
    Row(f"{MAIN_GT} diagonal --query-mask nans.npy", 1, "some NaN"),
    Row(f"{MAIN_GT} diagonal --query-mask zeros.npy", 1, "no text has a relevant video"),
    Row("--sim wide.npy --gt diagonal", 1, "which text belongs to which video is not known"),
    Row("--text x.npz --video v.npy --sim y.npz", 1, "--text and --sim have different text ids"),
    # outputs
    Row(f"{BOTH} -o s.npy", 1, "the output exists already"),
    Row(f"{BOTH} -o kinds", 1, "the output is a folder"),
    Row(f"{BOTH} -o pipe.npy --force", 1, "the output is a pipe or a device"),
    Row(f"{BOTH} -o no/o.npy", 1, "create it first"),
    Row(f"{BOTH} --run no/r.csv", 1, "create it first"),
    Row(f"{BOTH} --run twice.csv", 1, "--force"),
    Row(f"{BOTH} --run .", 1, "is a folder"),
    Row(f"{BOTH} -o {'n' * 300}.npy", 1, "the output's name is too long"),
    Row(f"{BOTH} --run r.trec --text-ids blanks.txt", 1, "TREC's columns end at white space"),
    Row(f"{BOTH} --run r.csv --text-ids same.txt", 1, "two texts have the same id"),
    Row(f"{BOTH} --run r.csv --text-ids nul.txt", 1, "a text id is not text that a file can hold"),
    Row(f"{MAIN_GT} diagonal --report s.npy", 1, "the output exists already"),
    Row(f"{MAIN_GT} diagonal --plots s.npy", 1, "the output is a file"),
    Row(f"{MAIN_GT} diagonal --plots no/plots", 1, "create it first"),
    Row(f"{MAIN_GT} diagonal --plots plots", 1, "plots/rank-change.svg"),
    Row(f"{MAIN_GT} diagonal --text-names few.txt", 1, "2 lines for 12 items"),
    Row(f"{BOTH} --resume words.npy", 1, "not a checkpoint"),
    Row(f"{BOTH} --candidates 3 --run r.csv --index magic", 1, "FAISS knows no such", late=True),
    Row(f"{BOTH} --candidates 3 --run r.csv --index IVF99,Flat", 1, "FAISS cannot", late=True),
    # the machine
    Row(f"{BOTH} --device tpu", 1, "use auto or cpu"),
    Row(f"{BOTH} --device meta", 1, "this device cannot be used"),
    # banks and correctors
    Row(f"{BOTH} --text-bank narrow.npy", 1, "text_bank has another dimension"),
    Row(f"{BOTH} --video-bank narrow.npy", 1, "video_bank has another dimension"),
    Row(f"{BOTH} --text-bank no.npy", 1, "does not exist"),
    Row(f"{BOTH} --text-bank hole.npy", 1, "text_bank[5, 2] = nan"),
    Row(f"{BOTH} --text-bank int.npy", 1, "text_bank does not hold floating-point"),
    Row("fit --text-bank tb.npy --video v.npy --save fitted", 1, "the output exists already"),
    Row("fit --text-bank tb.npy --video v.npy --save s.npy", 1, "the output is a file"),
    Row("fit --text-bank tb.npy --video v.npy --save kinds --force", 1, "holds other files too"),
    Row(f"fit --text-bank tb.npy --video v.npy --save {'n' * 300}", 1, "name is too long"),
    Row("fit --text-bank tb.npy --video v.npy --save no/new", 1, "create it first"),
    Row(f"{FIT} --names few.txt", 1, "2 lines for 12 items"),
    Row(f"{FIT} --names no.txt", 1, "cannot be read"),
    Row(f"{FIT} --device tpu", 1, "use auto or cpu"),
    Row(f"{FIT} --video-bank narrow.npy", 1, "another dimension than the gallery"),
    Row("fit --text-bank tb.npy --video narrow.npy --save new", 1, "different dimensions"),
    Row("fit --text-bank hole.npy --video v.npy --save new", 1, "received: bank[5, 2] = nan"),
    Row("fit --video-bank hole.npy --text v.npy --save new", 1, "received: bank[5, 2] = nan"),
    Row("fit --text-bank tb.npy --video hole.npy --save new", 1, "gallery[5, 2] = nan"),
    Row("fit --text-bank blank.npy --video v.npy --save new", 1, "[3]"),
    Row("fit --text-bank no.npy --video v.npy --save new", 1, "does not exist"),
    Row("fit --text-bank flat.npy --video v.npy --save new", 1, "two dimensions"),
    Row("fit --text-bank int.npy --video v.npy --save new", 1, "floating-point"),
    Row("tune --text-bank no.npy --video-bank vb.npy", 1, "does not exist"),
    Row("tune --text-bank tb.npy --video-bank short.npy", 1, "12 texts and 9 videos"),
    Row("tune --text-bank flat.npy --video-bank flat.npy", 1, "two dimensions"),
    Row(f"{PAIRS} --bank-gt flat.npy", 1, "3 entries for 12 texts"),
    Row(f"{PAIRS} --bank-gt no.csv", 1, "cannot be read"),
    Row(f"{PAIRS} --video v.npy --save fitted", 1, "--force"),
    Row(f"{PAIRS} --video v.npy --save new --names few.txt", 1, "2 lines for 12 items"),
    Row(f"{PAIRS} --video no.npy --save new", 1, "does not exist"),
    Row(f"{PAIRS} --video narrow.npy --save new", 1, "different dimensions"),
    Row("apply no --text t.npy", 1, "there is no saved corrector"),
    Row(f"apply {'n' * 300} --text t.npy", 1, "there is no saved corrector"),
    Row("apply s.npy --text t.npy", 1, "is a file, not a folder"),
    Row("apply fitted --text narrow.npy", 1, "another dimension than the gallery"),
    Row("apply fitted --text hole.npy", 1, "queries[5, 2] = nan"),
    Row("apply fitted --text hole.npy --top 2", 1, "queries[5, 2] = nan"),
    Row("apply fitted --text blank.npy", 1, "queries[3]"),
    Row("apply fitted --text flat.npy", 1, "two dimensions"),
    Row("apply fitted --text int.npy", 1, "floating-point"),
    Row("apply fitted --text no.npy", 1, "does not exist"),
    Row("apply fitted --text t.npy -o no/o.npy", 1, "create it first"),
    Row("apply fitted --text t.npy --gt no.npy", 1, "does not exist"),
    Row("apply fitted --text short.npy --gt diagonal", 1, "9 texts and 12 videos"),
    Row("apply fitted --text t.npy --gt flat.npy", 1, "3 entries for 12 texts"),
    Row("apply fitted --text t.npy --device tpu", 1, "use auto or cpu"),
    Row("apply fitted --text t.npy -o s.npy", 1, "the output exists already"),
    Row("apply odd --text t.npy --top 3", 1, "a gallery id is not text that a file can hold"),
    Row("show no", 1, "there is no saved corrector"),
    Row("show s.npy", 1, "is a file, not a folder"),
    Row("show kinds --json", 1, "a file of the corrector is missing"),
    Row("show piped", 1, "this is not a regular file"),
    Row("show damaged", 1, "the JSON is damaged or cut short"),
    Row("export odd --to npy -o out", 1, "a gallery id is not text that a file can hold"),
    Row("export fitted --to faiss -o out --factory magic", 1, "FAISS cannot build this index"),
    Row("export fitted --to npy -o s.npy", 1, "the output is a file"),
    Row("serve no", 1, "there is no saved corrector"),
    Row("demo --save used", 1, "used/text.npy"),
    Row("demo --save words.npy/x", 1, "the folder cannot be created"),
]  # fmt: skip

ROWS = [*USAGE, *FILES]
ELSEWHERE = {
    "interrupted": "tests/cli/test_rerank.py and test_resume.py send signals",
    "a package that the service needs": "tests/cli/test_serve.py takes packages away",
    "reading this format needs a library": "tests/io/test_sources.py takes fsspec away",
    "the folder cannot be read": "refuses nothing to root, as whom tests may run",
    "the output's folder is read-only": "as that one",
    "the array does not fit into the memory": "tests/io/test_formats.py claims terabytes",
    "_full(": "tests/cli/test_rerank.py and test_resume.py fill it",
    "writing failed": "tests/io/test_writers.py takes the folder away",
    "_appeared(": "tests/bank/test_persistence.py and test_writers.py race for it",
    "fits neither into": "tests/io/test_parts.py fills the disk",
    "cannot be copied to the disk": "as that one, for standard input",
    "this release of torch reads": "tests/io/test_formats.py pretends to an older one",
    "an address of several files": "tests/io/test_sources.py serves such",
    "the ids are too many or too long": "tests/io/test_writers.py lowers the limit",
    "at least one answer": "Python only: --top is at least 1",
    "unknown direction": "Python only",
    "use one of {', '.join(formats)}": "Python only: the command line refuses the suffix before",
    "ids for {count} {side}s": "Python only: the command line counts lines before",
    "type(error)(error.problem, received": "passes another error on",
    "_Interrupted(": "tests/cli/test_faults.py sends signals",
    "MemoryError(str(error))": "tests/cli/test_faults.py leaves little memory",
    "an input was changed while": "tests/cli/test_faults.py writes to one",
    "which may contain the link itself": "tests/io/test_fuzz_corpus.py makes such folders",
}
"""Messages that no row can show without breaking the machine: part of the source, and why."""


class Evil:
    def __reduce__(self):
        return eval, ("1 + 1",)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Files that are right, and files that are wrong in every way."""
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    v = rng.standard_normal((N, 6)).astype("f4")
    t = v + 0.5 * rng.standard_normal((N, 6)).astype("f4")
    arrays = {
        "t": t, "v": v, "tb": t + 0.1, "vb": v + 0.1, "s": t @ v.T, "wide": np.ones((3, 5), "f4"),
        "narrow": t[:, :3], "flat": np.ones(3), "far": np.full(N, 99), "int": np.ones((3, 3), int),
        "nan": np.where(np.arange(9).reshape(3, 3) == 5, np.nan, 1.0), "nans": np.full(N, np.nan),
        "zeros": np.zeros(N), "blank": v * (np.arange(N)[:, None] != 3), "short": v[:9],
        "hole": np.where(np.arange(6 * N).reshape(N, 6) == 32, np.float32(np.nan), t),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([{}], object))
    np.savez(folder / "objects.npz", x=np.array([{}], object))
    np.savez(folder / "two.npz", a=v, b=v)
    np.savez(folder / "none.npz")
    np.savez(folder / "text.npz", text=v)
    np.savez(folder / "ids.npz", x=v, x_ids=np.array(["a"]))
    np.savez(folder / "x.npz", x=t, ids=np.array([f"a{i}" for i in range(N)]))
    ids = {f"{side}_ids": np.array([f"{side}{i}" for i in range(N)]) for side in ("text", "video")}
    np.savez(folder / "y.npz", sims=t @ v.T, **ids)
    np.savez(folder / "both.npz", **{"a": v, "a.b": v})
    np.savez(folder / "htob.npz", **{"a.b": v, "a": v})
    np.savez_compressed(folder / "bomb.npz", x=np.zeros((3000, 3000)))
    (folder / "zip.npy").write_bytes((folder / "two.npz").read_bytes())
    (folder / "cut.npy").write_bytes((folder / "s.npy").read_bytes()[:200])
    for name, content in (("words", ["hello"]), ("evil", Evil())):
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content))
    torch.save(Evil(), folder / "evil.pt")
    parquet.write_table(arrow.table({"id": ["a"]}), folder / "ids.parquet")
    with h5py.File(folder / "outside.h5", "w") as file:
        file.create_dataset("x", (3, 3), "f4", external=[("raw", 0, 36)])
    rows = "text,video"
    texts = {
        "words.npy": "hello", "words.xyz": "hello", "words.parquet": "hello",
        "ragged.csv": "1,2\n3",
        "doubt.csv": "0,1,2\n3,4,5", "mixed.csv": "a,1\n2,3", "text.csv": "1,2\n3,x",
        "bad.jsonl": "{", "other.jsonl": '{"x": 1}', "half.jsonl": '[1]\n{"id": 1, "vector": [2]}',
        "twice.csv": "text,text,video\n0,1,2", "long.csv": f'{rows}\n"{"a" * 200_000}",1',
        "grade.csv": f"{rows},grade\n0,0,x", "inf.csv": f"{rows},grade\n0,0,inf",
        "wrong.csv": f"{rows},grade\n0,0,0", "head.csv": rows, "gt.csv": f"{rows}\nx,0",
        "large.csv": f"{rows}\n{'9' * 20},0", "words.qrels": "0 0 1", "few.txt": "a\nb",
        "a.txt": "\n".join(f"a{i}" for i in range(N)),
        "b.txt": "\n".join(f"b{i}" for i in range(N)),
        "same.txt": "\n".join("a" * N), "blanks.txt": "\n".join(f"a {i}" for i in range(N)),
        "nul.txt": "\n".join(f"\0{i}" for i in range(N)),
        "mixture/text.npy": "", "mixture/video.npy": "", "kinds/1.npy": "", "kinds/1.npz": "",
        "empty/.hidden": "", "plots/rank-change.svg": "mine", "used/text.npy": "mine",
        "damaged/corrector.json": "{", "piped/x": "",
    }  # fmt: skip
    for name, content in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, "utf-8")
    for name, second in (("shapes", v[:, :2]), ("nans", v * np.nan), ("links", v)):
        (folder / name).mkdir()
        np.save(folder / name / "0.npy", v)
        np.save(folder / name / "1.npy", second)
    (folder / "links" / "2.npy").symlink_to(folder / "v.npy")
    (folder / "loop.npy").symlink_to("loop.npy")
    (folder / "zero.csv").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.npy")
    os.mkfifo(folder / "piped" / "corrector.json")
    Reranker().fit(t + 0.1, v).save_pretrained(folder / "fitted")
    odd = [f"v{i}" for i in range(N - 1)] + ["\ud800"]
    Reranker().fit(t + 0.1, v, names=odd).save_pretrained(folder / "odd")
    return folder


def everything(folder):
    """Every file by name: what it is, and its content."""
    return {
        str(path): path.read_bytes()
        if path.is_file() and not path.is_symlink()
        else path.lstat()[:6]
        for path in sorted(folder.rglob("*"))
        if path.name != "zero.csv"
    }


def run(row):
    """Status, standard output and standard error of the command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["emcl-rerank", *shlex.split(row.line)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(row.stdin)))
        for name, value in row.env.items():
            patch.setenv(name, value)
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as stopped,
        ):
            main()
    return stopped.value.code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def told(place, tmp_path_factory):
    """What came of every row, where in the source it came from, and whether it left anything."""
    sites, found, correct = set(), {}, Job.correct
    terminated = signal.getsignal(signal.SIGTERM)

    def recording(original):
        def init(self, *given, **named):
            frame = sys._getframe(1)
            while frame is not None:
                sites.add((frame.f_code.co_filename, frame.f_lineno))
                frame = frame.f_back
            original(self, *given, **named)

        return init

    with pytest.MonkeyPatch.context() as patch:
        for kind in (EmclError, click.ClickException):
            patch.setattr(kind, "__init__", recording(kind.__init__))
        patch.chdir(place)
        before = everything(place)
        for row in ROWS:
            patch.setattr(Job, "correct", correct if row.late else None)
            found[row] = (*run(row), (now := everything(place)) == before)
            before = now
        patch.chdir(tmp_path_factory.mktemp("nothing"))
        alone = {row: run(row) for row in USAGE}
    signal.signal(signal.SIGTERM, terminated)
    return found, alone, sites


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.line or 'nothing'}"[:60])
def test_every_no_says_what_is_wrong_what_came_in_and_what_to_do(told, row):
    status, out, err, untouched = told[0][row]
    assert untouched
    assert status == row.status, err
    assert out == ""
    assert row.words in err
    assert "Traceback" not in err
    assert "internal error" not in err
    assert all(c.isprintable() for c in err.replace("\n", ""))
    assert len(err.splitlines()) < 24
    assert len(err) < 1500
    if status == 1:
        assert re.search(r"^Error: \S.*\n  received: \S.*\n  to do:    \S.*\n\Z", err, re.M)
    else:
        assert re.match(
            r"(Usage: emcl-rerank .*\nTry 'emcl-rerank .*--help' for help.\n\n)?Error: \S", err
        )


@pytest.mark.parametrize("row", USAGE, ids=lambda row: f"{row.line or 'nothing'}"[:60])
def test_wrong_usage_needs_no_file_to_be_told(told, row):
    assert told[1][row] == told[0][row][:3]


RAISES = {"_refuse", "fail", "refuse_pickle"}


def refusals():
    """(file, first line, last line, source) of every statement that refuses something."""
    for path in sorted([*(HOME / "cli").glob("*.py"), *(HOME / "io").glob("*.py")]):
        if path.name in ("strict_json.py", "pickled.py"):
            continue  # tests/bank/test_manifest.py, tests/io/test_pickled.py
        lines = path.read_text("utf-8").splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            call = node.exc if isinstance(node, ast.Raise) else getattr(node, "value", None)
            if not isinstance(node, ast.Raise | ast.Expr) or not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func).rpartition(".")[2].partition("(")[0]
            raised = isinstance(node, ast.Raise) and not name.startswith(("Value", "Unpickling"))
            if raised or name in RAISES:
                above = lines[max(node.lineno - 5, 0) : node.lineno - 1]
                source = "\n".join([*above, ast.unparse(call)])
                yield str(path), node.lineno, node.end_lineno, source


def test_every_refusal_of_the_command_line_is_in_the_table(told):
    sites = told[2]
    missing = [
        (Path(path).name, first, source)
        for path, first, last, source in refusals()
        if not any((path, line) in sites for line in range(first, last + 1))
    ]
    unknown = [row for row in missing if not any(words in row[2] for words in ELSEWHERE)]
    assert not unknown, "\n".join(map(str, unknown))
    unneeded = [words for words in ELSEWHERE if not any(words in row[2] for row in missing)]
    assert unneeded == []
