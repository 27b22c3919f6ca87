"""Search spaces: a file each, with the dataclass that names it in a configuration."""

from supernet_jax.spaces.adapted import Adapted
from supernet_jax.spaces.attentivenas import AttentiveNAS
from supernet_jax.spaces.autoformer import AutoFormerB, AutoFormerS, AutoFormerT
from supernet_jax.spaces.bert_supernet import BertSupernet
from supernet_jax.spaces.darts import DartsEdges, DartsGenotypes
from supernet_jax.spaces.decoder import Decoder
from supernet_jax.spaces.efficient_tdnn import EfficientTdnn
from supernet_jax.spaces.ensembles import Ensembles
from supernet_jax.spaces.fbnet import FBNetSmall, FBNetSpace
from supernet_jax.spaces.few_shot import FewShot
from supernet_jax.spaces.hat import HatIwslt14DeEn, HatWmt14EnDe, HatWmt14EnFr, HatWmt19EnDe
from supernet_jax.spaces.maestro import MaestroMlp
from supernet_jax.spaces.mcuformer import MCUFormer
from supernet_jax.spaces.mobilenet import Cifar, Digits
from supernet_jax.spaces.nas_bench_201 import NasBench201
from supernet_jax.spaces.nasvit import NASViT, NASViTSmall
from supernet_jax.spaces.once_for_all import OfaMobileNetV3, OfaSmall
from supernet_jax.spaces.single_path_nas import SinglePathNAS
from supernet_jax.spaces.sparse_cells import SparseCells
from supernet_jax.spaces.spos import SPOS, SPOSSmall
from supernet_jax.spaces.text_encoder import TextEncoder
from supernet_jax.spaces.vit_resnas import ViTResNAS, ViTResNASSmall
from supernet_jax.spaces.vit_supernet import VitSupernet
