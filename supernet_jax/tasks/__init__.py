"""What networks are for, one file a task: what goes in, what comes out, and how good that is."""

import dataclasses
from typing import Any

from supernet_jax.tasks.image_classification import ImageClassification as ImageClassification
from supernet_jax.tasks.language_modelling import HiddenTokens as HiddenTokens
from supernet_jax.tasks.language_modelling import HideTokens as HideTokens
from supernet_jax.tasks.language_modelling import NextToken as NextToken
from supernet_jax.tasks.language_modelling import OfTokens as OfTokens
from supernet_jax.tasks.sequence_classification import (
    SequenceClassification as SequenceClassification,
)
from supernet_jax.tasks.task import HasEmbeddings as HasEmbeddings
from supernet_jax.tasks.task import Metric as Metric
from supernet_jax.tasks.task import Scores as Scores
from supernet_jax.tasks.task import Size as Size
from supernet_jax.tasks.task import Task as Task
from supernet_jax.tasks.task import offered as offered
from supernet_jax.tasks.translation import Translation as Translation
from supernet_jax.tasks.verification import SpeakerVerification as SpeakerVerification
from supernet_jax.tasks.verification import VerifySpeakers as VerifySpeakers

# By the name of its class, every task here that a network can be for, as files name it.
TASKS: dict[str, Any] = {
    name: kind
    for name, kind in list(globals().items())
    if dataclasses.is_dataclass(kind) and hasattr(kind, "score")
}
