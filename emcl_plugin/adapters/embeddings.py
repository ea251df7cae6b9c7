"""Models that score by the cosine of two vectors: open_clip, Hugging Face and others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from emcl_plugin._internal.arrays import check_matrix
from emcl_plugin.adapters.base import Adapter, Fields, stacked
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.ground_truth import GroundTruth


class OpenCLIP(Adapter):
    """Output of open_clip and CLIP_benchmark: embeddings, and the image of every text.

    Parameters
    ----------
    texts_emb, images_emb : (n_text, D) and (n_image, D) array, or list of batches
    texts_image_index : (n_text,) sequence of int, optional
        The image of each text. Default: text i describes image i, if their numbers are equal.

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
    }

    def __init__(self, *, texts_emb: Any, images_emb: Any, texts_image_index: Any = None) -> None:
        self.notes = []
        self.features = stacked(texts_emb, "texts_emb"), stacked(images_emb, "images_emb")
        self._settle()
        if texts_image_index is not None:
            self.ground_truth = GroundTruth.from_index(texts_image_index, self.shape[1])


class HuggingFace(Adapter):
    """Output of CLIP, CLAP, SigLIP, X-CLIP and similar models of Hugging Face's transformers.

    Parameters
    ----------
    outputs : ModelOutput or mapping, optional
        With ``text_embeds`` and ``image_embeds``, ``video_embeds`` or ``audio_embeds``, and
        optionally ``logits_per_text``.
    text_embeds, image_embeds, logits_per_text : arrays, optional
        The same as separate arrays. The logit scale is detected and noted.
    text_to_item : (n_text,) sequence of int, optional
        The item of each text. Default: text i describes item i, if their numbers are equal.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3, dtype=np.float32)
    >>> run = HuggingFace({"text_embeds": x, "image_embeds": x, "logits_per_text": 100 * x})
    >>> run.notes[-1]
    'sim is the cosine of the features times 100: the features are used'
    """

    NAME = "huggingface"
    FIELDS: ClassVar[Fields] = {
        "text_embeds": ("text", "text_features"),
        "image_embeds": ("video_embeds", "audio_embeds", "image", "video", "image_features"),
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
        given = [text_embeds, image_embeds, logits_per_text]
        if outputs is not None:
            for place, name in enumerate(("text_embeds", "image_embeds", "logits_per_text")):
                names = (name, *self.FIELDS.get(name, ()))
                found = [x for x in (_entry(outputs, n) for n in names) if x is not None]
                given[place] = found[0] if given[place] is None and found else given[place]
        text, item, logits = given
        if getattr(text, "ndim", 2) == 3:
            self.notes.append("the text vectors depend on the videos (X-CLIP): logits only")
            text = None
        if text is not None and item is not None:
            self.features = stacked(text, "text_embeds"), stacked(item, "image_embeds")
        self._settle(logits, orientation="auto" if logits is None else "text-video")
        if text_to_item is not None:
            self.ground_truth = GroundTruth.from_index(text_to_item, self.shape[1])


def _entry(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


class SentenceTransformers(Adapter):
    """Output of sentence-transformers: encoded queries and corpus, and the relevant documents.

    Parameters
    ----------
    queries, corpus : (n_query, D) and (n_item, D) array, or list of vectors
    relevant_docs : mapping of str to collection of str, optional
        Relevant corpus ids by query id, as in InformationRetrievalEvaluator; requires both ids.
        Default: query i belongs to item i, if their numbers are equal.
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
            received = f"query_ids {query_ids is not None}, corpus_ids {corpus_ids is not None}"
            remedy = "pass query_ids and corpus_ids in the order of the rows"
            raise InputValueError("relevant_docs needs query_ids and corpus_ids", received, remedy)
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
    """Return the output of encode(), which may be a list of vectors, as one array."""
    if isinstance(given, list | tuple) and given and getattr(given[0], "ndim", 0) == 1:
        given = [vector[None] for vector in given]
    return stacked(given, name)


def _ids(given: Sequence[str] | None, count: int, name: str) -> tuple[str, ...] | None:
    if given is None:
        return None
    if len(given) != count or len(set(given)) != count:
        received = f"{len(given)} ids, {len(set(given))} of them unique, for {count} rows"
        remedy = "pass them in the order of the rows"
        raise InputValueError(f"{name} must have one unique id per row", received, remedy)
    return tuple(map(str, given))


class ClipRetrieval(Adapter):
    """Output folder of clip-retrieval: ``img_emb``, ``text_emb`` and ``metadata``.

    Row i of the texts belongs to row i of the images.

    Parameters
    ----------
    text_emb, img_emb : (n, D) arrays
    ids : sequence of str, optional
        Ids of both sides, from the metadata.
    """

    NAME = "clip-retrieval"

    def __init__(self, *, text_emb: Any, img_emb: Any, ids: Sequence[str] | None = None) -> None:
        self.notes = []
        self.features = stacked(text_emb, "text_emb"), stacked(img_emb, "img_emb")
        self._settle()
        if ids is not None:
            self.text_ids = self.video_ids = tuple(ids)

    @classmethod
    def read(cls, path: str | Path, *, trust_pickle: bool = False, **settings: Any) -> Adapter:
        """Read the folder that ``clip-retrieval inference`` wrote."""
        from emcl_plugin.io.formats import read_vectors

        folder = Path(path)
        missing = [name for name in ("text_emb", "img_emb") if not (folder / name).is_dir()]
        if missing:
            raise InputTypeError(
                "not a folder of clip-retrieval",
                f"{path}, without {' and '.join(missing)}",
                "pass the --output_folder of clip-retrieval inference, made with texts and images",
            )
        text = read_vectors(folder / "text_emb", trust_pickle=trust_pickle)
        image = read_vectors(folder / "img_emb", trust_pickle=trust_pickle)
        check_matrix(text.array, "text_emb")
        check_matrix(image.array, "img_emb")
        return cls(text_emb=text.array, img_emb=image.array, ids=image.ids, **settings)
