"""Verification of speakers: whether two utterances are of one voice, by the angle between their
embeddings. Networks are trained to tell the speakers of the training data apart.

Shape letters: `B` utterances, `T` frames, `F` mel bands, `E` numbers of an embedding, `K` speakers
of the training data, `n` trials.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from supernet_jax.errors import UserError, require
from supernet_jax.tasks.task import Array, Metric, Scores, Size

TARGET = 0.01  # prior probability of a target trial in `min_dcf`, that of VoxCeleb's evaluations
METRICS = {
    "eer": Metric("eer", "%", higher_is_better=False),
    "min_dcf": Metric("min_dcf", higher_is_better=False),
}


@dataclasses.dataclass(frozen=True)
class SpeakerVerification:
    """Features `[B, T, F]` and numbers of speakers `[B]`; networks put out `[B, E + K]`: an
    embedding, and the cosine of its angle to each speaker's direction.

    The first static decision of a space, if it has any, is the number of frames: shorter utterances
    are the beginnings of longer ones. Trials are all pairs of the utterances of a part.

    Attributes:
        bands: F.
        length: T of the data, the longest.
        speakers: K.
        scale: by which cosines are multiplied to be logits.
        margin: radians that are added in training to the angle to an utterance's own speaker
            (additive angular margin, Deng et al. 2018, arXiv 1801.07698, equation 3).
        measure: by which networks are compared: equal error rate, or minimum detection cost.
    """

    bands: int
    length: int
    speakers: int
    scale: float = 30.0
    margin: float = 0.2
    measure: Literal["eer", "min_dcf"] = "eer"

    name = "speaker verification"

    @property
    def metric(self) -> Metric:
        """That of `measure`."""
        return METRICS[self.measure]

    @property
    def guess(self) -> float:
        """Of embeddings at right angles to every speaker's direction."""
        return math.log1p((self.speakers - 1) * math.exp(self.scale * math.sin(self.margin)))

    def inputs(self, size: Size) -> jax.ShapeDtypeStruct:
        """One utterance."""
        return jax.ShapeDtypeStruct((1, self._frames(size), self.bands), jnp.float32)

    def fit(self, inputs: Array, size: Size) -> Array:
        """The beginnings of utterances; all of them where their length is no static decision."""
        frames = inputs.shape[1] if size == () else self._frames(size)
        if inputs.shape[1] < frames:
            raise UserError(
                f"utterances have {inputs.shape[1]} frames, but the space wants {frames}; give "
                "longer ones, or a space of shorter ones"
            )
        return jnp.asarray(inputs[:, :frames], jnp.float32)

    def _frames(self, size: Size) -> int:
        if isinstance(size, int):
            return size
        return size[0] if size else self.length

    def logits(self, outputs: Array, targets: Array) -> Array:
        """Those that are trained: scaled cosines, that of an utterance's own speaker with the
        margin. Where the angle with the margin would be above 180 degrees, its cosine falls on in a
        straight line.
        """
        cosines = outputs[:, -self.speakers :].astype(jnp.float32)
        sines = jnp.sqrt(jnp.maximum(1 - jnp.square(cosines), 1e-7))
        cos, sin = math.cos(self.margin), math.sin(self.margin)
        harder = jnp.where(cosines > -cos, cosines * cos - sines * sin, cosines - self.margin * sin)
        own = jax.nn.one_hot(targets, self.speakers, dtype=bool)
        return self.scale * jnp.where(own, harder, cosines)

    def embeddings(self, outputs: Array) -> Array:
        """What a network says of a voice, of any length."""
        return outputs[..., : -self.speakers]

    def score(self, outputs: Array, targets: Array) -> Scores:
        """The embedding of each utterance, its speaker, and how well the network names that one,
        without a margin; of speakers that it was not trained on it knows nothing.
        """
        logits, known = self.scale * outputs[:, -self.speakers :], targets < self.speakers
        wanted = jnp.where(known, targets, 0)
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, wanted)
        loss = jnp.where(known, loss, math.log(self.speakers))
        return {"loss": loss, "embedding": self.embeddings(outputs), "speaker": targets}

    def value(self, scores: Scores) -> Any:
        """The measure, over all pairs of utterances.

        Raises:
            UserError: no two are of one speaker, or all are.
        """
        cosines, same = trials(scores["embedding"], scores["speaker"])
        measure, guess = (equal_error_rate, 0.5) if self.measure == "eer" else (min_dcf, 1.0)
        if isinstance(same, jax.Array):  # of a batch in training, in which there may be no trials
            there = jnp.any(same) & jnp.any(~same)
            return jnp.where(there, measure(cosines, same), guess)
        if not same.any() or same.all():
            kind = "of one speaker" if same.all() else "each of another speaker"
            raise UserError(
                f"the {len(scores['speaker'])} utterances that are to be verified are {kind}, so "
                "there are no trials to measure; give several utterances of each of several "
                "speakers, or raise --data.held-out or --evaluation.limit"
            )
        return measure(cosines, same)


@dataclasses.dataclass(frozen=True)
class VerifySpeakers:
    """Speakers told apart by the angles between embeddings, over all pairs of utterances."""

    scale: float = 30.0
    """what cosines are multiplied by to be logits; more make the loss look at the worst ones"""
    margin: float = 0.2
    """radians added in training to the angle to the right speaker; more pull voices apart"""
    measure: Literal["eer", "min_dcf"] = "eer"
    """by which networks are compared: equal error rate, or minimum detection cost"""

    def build(self, *, bands: int, length: int, speakers: int) -> SpeakerVerification:
        """The task for data of so many mel bands, frames and speakers."""
        require(
            0 < self.scale < math.inf,
            f"task.scale is {self.scale}, but must be a number above 0; commonly 30",
        )
        require(
            0 <= self.margin < math.pi / 2,
            f"task.margin is {self.margin}, but must be in [0, 1.57): radians, commonly 0.2",
        )
        return SpeakerVerification(bands, length, speakers, self.scale, self.margin, self.measure)


def trials(embeddings: Any, speakers: Any) -> tuple[Any, Any]:
    """Every pair of utterances once: its cosine `[n]`, and whether both are of one speaker.

    Args:
        embeddings: `[B, E]`, NumPy or JAX.
        speakers: `[B]`.
    """
    xp: Any = jnp if isinstance(embeddings, jax.Array) else np
    wide = embeddings if xp is jnp else np.asarray(embeddings, np.float64)
    unit = wide / xp.sqrt(xp.maximum(xp.sum(wide**2, -1, keepdims=True), 1e-12))
    one, other = np.triu_indices(len(speakers), 1)
    return (unit @ unit.T)[one, other], speakers[one] == speakers[other]


def equal_error_rate(scores: Any, same: Any) -> Any:
    """Where as large a share of target trials is missed as of others is accepted.

    Between two thresholds both shares change linearly, as those of a random choice between the two
    do: the value is where the ROC curve, of straight lines, meets the line of equal errors.

    Args:
        scores: `[n]`, higher where both utterances seem to be of one voice; NumPy or JAX.
        same: bool `[n]`, the target trials.
    """
    xp, missed, accepted, is_point = _curve(scores, same)
    places = xp.arange(len(missed))
    before = xp.max(xp.where(is_point & (accepted < missed), places, 0))
    after = xp.argmax(is_point & (accepted >= missed))
    gap, rest = missed[before] - accepted[before], accepted[after] - missed[after]
    share = gap / (gap + rest)
    return accepted[before] + share * (accepted[after] - accepted[before])


def min_dcf(scores: Any, same: Any, *, target: float = TARGET) -> Any:
    """Minimum over all thresholds of the detection cost, both kinds of errors costing 1, by that of
    the better of always accepting and never (NIST 2016 Speaker Recognition Evaluation Plan,
    section 3): at most 1.

    Args:
        scores: as of `equal_error_rate`.
        same: as there.
        target: prior probability of a target trial, in (0, 1).
    """
    xp, missed, accepted, is_point = _curve(scores, same)
    costs = target * missed + (1 - target) * accepted
    return xp.min(xp.where(is_point, costs, xp.inf)) / min(target, 1 - target)


def _curve(scores: Any, same: Any) -> tuple[Any, Any, Any, Any]:
    """The module of the arrays, and with the 0, 1, ... n best trials accepted: the share of target
    trials that is missed, the share of others that is accepted, both `[n + 1]`, and whether a
    threshold does that, which equal scores may forbid.
    """
    xp: Any = jnp if isinstance(scores, jax.Array) else np
    order = xp.argsort(-scores)
    ranked, hits = scores[order], same[order]
    nothing = xp.zeros(1, ranked.dtype)
    hit = xp.concatenate([nothing, xp.cumsum(hits.astype(ranked.dtype))])
    wrong = xp.concatenate([nothing, xp.cumsum((~hits).astype(ranked.dtype))])
    end = xp.ones(1, bool)
    is_point = xp.concatenate([end, ranked[1:] != ranked[:-1], end])
    return xp, 1 - hit / hit[-1], wrong / wrong[-1], is_point
