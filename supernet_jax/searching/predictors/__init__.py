"""What scores of archs are likely to be, learnt from scores of others: a kind each file."""

from supernet_jax.searching.predictors.boosting import Boosting
from supernet_jax.searching.predictors.ensemble import Ensemble
from supernet_jax.searching.predictors.predictor import (
    CrossValidated,
    Free,
    Predictor,
    checked,
    cross_validated,
    scorer,
)
from supernet_jax.searching.predictors.ridge import Ridge
from supernet_jax.searching.predictors.svr import Svr
