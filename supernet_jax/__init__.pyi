from supernet_jax import data as data
from supernet_jax import nn as nn
from supernet_jax import spaces as spaces
from supernet_jax.experiment.config import Config as Config
from supernet_jax.experiment.config import Data as Data
from supernet_jax.experiment.config import Evaluation as Evaluation
from supernet_jax.experiment.config import Train as Train
from supernet_jax.networks.network_folder import inputs as inputs
from supernet_jax.networks.network_folder import load as load
from supernet_jax.training import gradients as gradients
from supernet_jax.training import losses as losses
from supernet_jax.training import optimizers as optimizers
from supernet_jax.training import samplers as samplers

__version__: str
