"""What the members of a step learn from beside the labels, a kind each file."""

from supernet_jax.training.teachers.average import Average
from supernet_jax.training.teachers.extracted_network import ExtractedNetwork
from supernet_jax.training.teachers.largest import Largest
from supernet_jax.training.teachers.no_teacher import NoTeacher
from supernet_jax.training.teachers.other_supernet import OtherSupernet
from supernet_jax.training.teachers.teacher import Taught, Teacher
