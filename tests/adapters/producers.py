"""What retrievers leave behind, made the way each of them makes it; sizes and noise are small.

Written from the published behaviour: batches of a data loader, raw features with masks, scores
times a logit scale, matrices padded with -inf, captions grouped by video.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

F = torch.nn.functional


@dataclass
class Items:
    """Videos of frames and their captions of words; captions of one video follow one another."""

    seed: int = 0
    videos: int = 17
    many: bool = False
    dimension: int = 12
    frames: int = 5
    words: int = 6
    video: torch.Tensor = field(init=False)
    text: torch.Tensor = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        self.counts = rng.integers(1, 4, self.videos) if self.many else np.ones(self.videos, int)
        self.index = np.repeat(np.arange(self.videos), self.counts)
        texts = len(self.index)
        shared, own = rng.standard_normal(self.dimension), (self.videos, 1, self.dimension)
        about = 1.5 * rng.standard_normal(own) + shared
        video = about + rng.standard_normal((self.videos, self.frames, self.dimension))
        text = about[self.index] + rng.standard_normal((texts, self.words, self.dimension))
        self.video, self.text = torch.tensor(video).float(), torch.tensor(text).float()
        self.video_mask = self._mask(rng, self.videos, self.frames)
        self.text_mask = self._mask(rng, texts, self.words)
        self.cut_off_points = np.cumsum(self.counts).tolist() if self.many else None

    @staticmethod
    def _mask(rng, count, length):
        return torch.tensor(np.arange(length) < rng.integers(1, length + 1, count)[:, None]).long()


def batched(x, size=4):
    """A data loader's batches."""
    return list(torch.split(x, size))


def clip4clip(items, *, scale=100.0):
    """meanP: unit frames, masked mean, unit length; the text's one vector; times exp(scale)."""
    text = items.text[:, :1]
    rows = []
    for words in batched(text):
        row = []
        for frames, mask in zip(batched(items.video), batched(items.video_mask), strict=True):
            frames = frames / frames.norm(dim=-1, keepdim=True)
            there = mask.float().unsqueeze(-1)
            video = (frames * there).sum(1) / there.sum(1)
            video = video / video.norm(dim=-1, keepdim=True)
            own = words.squeeze(1) / words.squeeze(1).norm(dim=-1, keepdim=True)
            row.append((scale * own @ video.T).numpy())
        rows.append(np.concatenate(row, axis=-1))
    return text, rows


def padded(flat, counts):
    """The matrix as it is reshaped to be measured: (videos, most captions, videos)."""
    ends = np.cumsum(counts)
    most = max(counts)
    parts = [
        np.concatenate([flat[end - count : end], np.full((most - count, flat.shape[1]), -np.inf)])
        for end, count in zip(ends, counts, strict=True)
    ]
    return np.stack(parts)


def drl(items, interaction, weigh=None):
    """Blocks of 32 through the interaction; ``weigh`` are the two weight networks."""
    rows = []
    for text, text_mask in zip(batched(items.text, 32), batched(items.text_mask, 32), strict=True):
        row = []
        for video, mask in zip(
            batched(items.video, 32), batched(items.video_mask, 32), strict=True
        ):
            row.append(_interact(text, text_mask, video, mask, interaction, weigh))
        rows.append(np.concatenate(row, axis=-1))
    return rows


def _interact(text, text_mask, video, video_mask, interaction, weigh):
    if interaction == "dp":
        own = text[torch.arange(len(text)), text_mask.sum(-1) - 1]
        frames = F.normalize(video, dim=-1) * video_mask[..., None]
        mean = frames.sum(1) / video_mask.sum(1, keepdim=True)
        return (F.normalize(own, dim=-1) @ F.normalize(mean, dim=-1).T).numpy()
    products = torch.einsum("atd,bvd->abtv", F.normalize(text, dim=-1), F.normalize(video, dim=-1))
    products = products * text_mask[:, None, :, None] * video_mask[None, :, None, :]
    of_words, of_frames = products.max(-1)[0], products.max(-2)[0]
    if interaction == "ti":
        a = of_words.sum(2) / text_mask.sum(-1)[:, None]
        b = of_frames.sum(2) / video_mask.sum(-1)[None]
        return ((a + b) / 2).numpy()
    weights = [
        torch.softmax(net(x).squeeze(2).masked_fill(mask == 0, -torch.inf), -1)
        for net, x, mask in zip(weigh, (text, video), (text_mask, video_mask), strict=True)
    ]
    a = torch.einsum("abt,at->ab", of_words, weights[0])
    b = torch.einsum("abv,bv->ab", of_frames, weights[1])
    return ((a + b) / 2).numpy()


def weight_networks(dimension, seed=0):
    """Two small networks, a number for every token."""
    torch.manual_seed(seed)
    made = [
        torch.nn.Sequential(
            torch.nn.Linear(dimension, dimension), torch.nn.ReLU(), torch.nn.Linear(dimension, 1)
        )
        for _ in range(2)
    ]
    return [net.requires_grad_(False) for net in made]


EXPERTS = ("rgb", "audio", "face")


def mmt(seed=0, videos=14, captions=5, dimension=8, missing=((3, 1), (9, 2))):
    """Experts' unit embeddings, L1-normalised weights, a query mask, and the matrix of all."""
    torch.manual_seed(seed)
    vid = {name: F.normalize(torch.randn(videos, dimension) + 1, dim=-1) for name in EXPERTS}
    text = {
        name: F.normalize(x[:, None] + 0.4 * torch.randn(videos, captions, dimension), dim=-1)
        for name, x in vid.items()
    }
    vid_weights = torch.ones(videos, 3) * (torch.rand(videos, 3) > 0.3)
    vid_weights[:, 0] = 1
    vid_weights = F.normalize(vid_weights, p=1, dim=-1)
    text_weights = F.normalize(torch.softmax(torch.randn(videos, captions, 3), -1), p=1, dim=-1)
    mask = np.ones((videos, captions))
    for video, count in missing:
        mask[video, captions - count :] = 0
    a = text_weights.reshape(-1, 3)
    pairs = vid_weights[None] * a[:, None]
    total = pairs.sum(2, keepdim=True)
    total[total == 0] = 1e-5
    pairs = pairs / total
    sims = sum(
        pairs[:, :, k] * (text[name].reshape(-1, dimension) @ vid[name].T)
        for k, name in enumerate(EXPERTS)
    )
    return {
        "text_embds": text,
        "vid_embds": vid,
        "text_weights": text_weights,
        "vid_weights": vid_weights,
        "query_masks": mask,
    }, sims.numpy()


def flat(given, prefix=""):
    """Names of arrays inside dictionaries, with a point between."""
    found = {}
    for name, value in given.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = np.asarray(value)
    return found


SIM = np.random.default_rng(0).random((4, 4))
SIDES = (SIM + np.eye(4), SIM.T + 1)
LEFT = {
    "mmt": {"sims": SIM},
    "collaborative-experts": {"sims": SIM},
    "clip4clip": dict(zip(("text", "video"), SIDES, strict=True)),
    "clip2video": dict(zip(("text", "video"), SIDES, strict=True)),
    "x-clip": {"sim": SIM},
    "drl": {"sim": SIM},
    "emcl-net": {"sim": SIM},
    "dbsn": {"sims": SIM, "orientation": "text-video"},
    "open_clip": dict(zip(("texts_emb", "images_emb"), SIDES, strict=True)),
    "huggingface": dict(zip(("text_embeds", "image_embeds"), SIDES, strict=True)),
    "sentence-transformers": dict(zip(("queries", "corpus"), SIDES, strict=True)),
    "clip-retrieval": dict(zip(("text_emb", "img_emb"), SIDES, strict=True)),
}
"""What makes each adapter: four texts and their four videos, in order."""
