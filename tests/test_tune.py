"""Settings by cross-validation inside the bank: fair cuts, honest evidence, a budget that holds."""

from __future__ import annotations

import functools
import json
import warnings
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from oracles import cone_pair, plain_ranks, unit
from scipy import stats

from emcl_plugin import EMCL, NCL, Reranker
from emcl_plugin import tune as package  # the module
from emcl_plugin.bank import BANK
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.significance import compare
from emcl_plugin.truth import GroundTruth
from emcl_plugin.tune import (
    DEFAULTS,
    EVIDENCE,
    NCLS,
    NOTHING,
    Candidate,
    Trial,
    emcls,
    settings,
    tune,
)
