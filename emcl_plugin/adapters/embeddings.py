"""Models whose score is the cosine of two vectors: open_clip, Hugging Face and others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from emcl_plugin._internal.arrays import check_matrix
from emcl_plugin.adapters.base import Adapter, Fields, stacked
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.ground_truth import GroundTruth


class OpenCLIP(Adapter):
    """open_clip and CLIP_benchmark's zero-shot retrieval: embeddings, and every text's image.

    Parameters
    ----------
    texts_emb : (n_text, D) array or list of batches
    images_emb : (n_image, D) array or list of batches
    texts_image_index : (n_text,) sequence of int, optional
        The image that each text describes. Default: text i describes image i, if they are as many.

    Examples
    --------
    >>> import numpy as np
    >>> OpenCLIP(texts_emb=np.eye(3), images_emb=np.eye(3)[:2], texts_image_index=[0, 1, 1]).shape
    (3, 2)
    """

    NAME = "open_clip"
    FIELDS: ClassVar[Fields] = {
        "texts_emb": ("text", "texts", "text_features", "text_emb"),
        "images_emb": ("image", "images", "image_features", "img_emb", "video", "video_emb"),
        "texts_image_index": (),
    }

    def __init__(self, *, texts_emb: Any, images_emb: Any, texts_image_index: Any = None) -> None:
        self.notes = []
        self.features = stacked(texts_emb, "texts_emb"), stacked(images_emb, "images_emb")
        self._settle()
        if texts_image_index is not None:
            self.ground_truth = GroundTruth.from_index(texts_image_index, self.shape[1])


class HuggingFace(Adapter):
    """What CLIP, CLAP, SigLIP, X-CLIP and their kin of Hugging Face's transformers return.

    Parameters
    ----------
    outputs : ModelOutput or mapping, optional
        With ``text_embeds`` and ``image_embeds``, ``video_embeds`` or ``audio_embeds``, and
        perhaps ``logits_per_text``.
    text_embeds, image_embeds, logits_per_text : arrays, optional
        In its place. Logits are cosines times exp(logit_scale): the factor is found and noted.
    text_to_item : (n_text,) sequence of int, optional
        The item that each text describes. Default: text i describes item i, if they are as many.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3, dtype=np.float32)
    >>> run = HuggingFace({"text_embeds": x, "image_embeds": x, "logits_per_text": 100 * x})
    >>> run.notes[-1]
    "sim is the features' cosine times 100: the cosine is used"
    """

    NAME = "huggingface"
    FIELDS: ClassVar[Fields] = {
        "text_embeds": ("text", "text_features"),
        "image_embeds": ("video_embeds", "audio_embeds", "image", "video", "image_features"),
        "logits_per_text": (),
        "text_to_item": (),
    }

    def __init__(
        self,
        outputs: Any = None,
        *,
        text_embeds: Any = None,
        image_embeds: Any = None,
        logits_per_text: Any = None,
        text_to_item: Any = None,
    ) -> None:
        self.notes = []
        given = {
            "text_embeds": text_embeds,
            "image_embeds": image_embeds,
            "logits_per_text": logits_per_text,
        }
        if outputs is not None:
            for name in given:
                for called in (name, *self.FIELDS[name]):
                    found = _entry(outputs, called)
                    if given[name] is None and found is not None:
                        given[name] = found
        text, item = given["text_embeds"], given["image_embeds"]
        if getattr(text, "ndim", 2) == 3:
            self.notes.append("the texts are conditioned on the videos (X-CLIP): logits only")
            text = None
        if text is not None and item is not None:
            self.features = stacked(text, "text_embeds"), stacked(item, "image_embeds")
        logits = given["logits_per_text"]
        self._settle(logits, orientation="auto" if logits is None else "text-video")
        if text_to_item is not None:
            self.ground_truth = GroundTruth.from_index(text_to_item, self.shape[1])


def _entry(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


class SentenceTransformers(Adapter):
    """sentence-transformers: encoded queries and corpus, and what its evaluators call relevant.

    Parameters
    ----------
    queries : (n_query, D) array or list of vectors
    corpus : (n_item, D) array or list of vectors
    relevant_docs : mapping of str to collection of str, optional
        The corpus ids that are right for a query id, as InformationRetrievalEvaluator takes it;
        needs both ids. Default: query i belongs to item i, if they are as many.
    query_ids, corpus_ids : sequence of str, optional

    Examples
    --------
    >>> import numpy as np
    >>> run = SentenceTransformers(queries=np.eye(2), corpus=np.eye(2), query_ids=["a", "b"],
    ...     corpus_ids=["x", "y"], relevant_docs={"a": {"y"}, "b": {"x"}})
    >>> run.ground_truth.item.tolist()
    [1, 0]
    """

    NAME = "sentence-transformers"
    FIELDS: ClassVar[Fields] = {
        "queries": ("text", "query_embeddings"),
        "corpus": ("video", "image", "corpus_embeddings"),
        "query_ids": (),
        "corpus_ids": (),
    }

    def __init__(
        self,
        *,
        queries: Any,
        corpus: Any,
        relevant_docs: Mapping[str, Collection[str]] | None = None,
        query_ids: Sequence[str] | None = None,
        corpus_ids: Sequence[str] | None = None,
    ) -> None:
        self.notes = []
        self.features = _vectors(queries, "queries"), _vectors(corpus, "corpus")
        self.text_ids = _ids(query_ids, len(self.features[0]), "query_ids")
        self.video_ids = _ids(corpus_ids, len(self.features[1]), "corpus_ids")
        self._settle()
        if relevant_docs is None:
            return
        if self.text_ids is None or self.video_ids is None:
            raise InputValueError(
                "relevant documents are named by ids that are not given",
                f"query_ids {query_ids is not None}, corpus_ids {corpus_ids is not None}",
                "pass query_ids and corpus_ids in the order of the rows",
            )
        places = {name: row for row, name in enumerate(self.video_ids)}
        pairs = []
        for row, name in enumerate(self.text_ids):
            for right in relevant_docs.get(name, ()):
                if right not in places:
                    raise InputValueError(
                        "a relevant document is not in the corpus", repr(right), "check the ids"
                    )
                pairs.append((row, places[right]))
        self.ground_truth = GroundTruth.from_pairs(pairs, self.shape)


def _vectors(given: Any, name: str) -> Any:
    """encode() gives an array, a tensor, or a list of vectors."""
    if isinstance(given, list | tuple) and given and getattr(given[0], "ndim", 0) == 1:
        given = [vector[None] for vector in given]
    return stacked(given, name)


def _ids(given: Sequence[str] | None, count: int, name: str) -> tuple[str, ...] | None:
    if given is None:
        return None
    if len(given) != count or len(set(given)) != count:
        raise InputValueError(
            f"{name} must be one different id per row",
            f"{len(given)} ids, {len(set(given))} of them different, for {count} rows",
            "pass them in the order of the rows",
        )
    return tuple(map(str, given))


class ClipRetrieval(Adapter):
    """A folder of clip-retrieval: ``img_emb``, ``text_emb`` and ``metadata``.

    Row i of the texts belongs to row i of the images, as clip-retrieval writes them.

    Parameters
    ----------
    text_emb, img_emb : (n, D) arrays
    ids : sequence of str, optional
        Of both, from the metadata.
    """

    NAME = "clip-retrieval"
    FIELDS: ClassVar[Fields] = {"text_emb": (), "img_emb": (), "ids": ()}

    def __init__(self, *, text_emb: Any, img_emb: Any, ids: Sequence[str] | None = None) -> None:
        self.notes = []
        self.features = stacked(text_emb, "text_emb"), stacked(img_emb, "img_emb")
        self._settle()
        if ids is not None:
            self.text_ids = self.video_ids = tuple(ids)

    @classmethod
    def read(cls, path: str | Path, *, trust_pickle: bool = False, **settings: Any) -> Adapter:
        """From the folder that ``clip-retrieval inference`` wrote."""
        from emcl_plugin.io.formats import read_vectors

        folder = Path(path)
        missing = [name for name in ("text_emb", "img_emb") if not (folder / name).is_dir()]
        if missing:
            raise InputTypeError(
                "this is no folder of clip-retrieval",
                f"{path}, without {' and '.join(missing)}",
                "name the --output_folder of clip-retrieval inference, made with texts and images",
            )
        text = read_vectors(folder / "text_emb", trust_pickle=trust_pickle)
        image = read_vectors(folder / "img_emb", trust_pickle=trust_pickle)
        for found, name in ((text, "text_emb"), (image, "img_emb")):
            check_matrix(found.array, name)
        return cls(text_emb=text.array, img_emb=image.array, ids=image.ids, **settings)
