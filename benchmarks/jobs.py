"""What `everything.py` runs: each benchmark with its options, the most valuable first."""

import importlib.util
import itertools
import pathlib
import shlex
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# XLA options that are worth a comparison on a GPU; an empty list of commands means no CUDA graphs.
VARIANTS = {
    "default": "",
    "no-graphs": "--xla_gpu_enable_command_buffer=",
    "more-graphs": "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL",
    "no-autotuning": "--xla_gpu_autotune_level=0",
    "no-triton-gemm": "--xla_gpu_enable_triton_gemm=false",
    "deterministic": "--xla_gpu_deterministic_ops=true",
}


class Job(NamedTuple):
    """One benchmark with its options.

    Attributes:
        name: of its files.
        script: without `.py`.
        options: of the script.
        minutes: about what it takes, for the budget.
        tuned: whether variants run it again.
        flags: of XLA, in addition to those of the environment.
    """

    name: str
    script: str
    options: tuple[str, ...]
    minutes: float
    tuned: bool = False
    flags: str = ""

    @property
    def command(self) -> str:
        """What gives the same figures when typed."""
        flags = f"XLA_FLAGS={shlex.quote(self.flags)} " if self.flags else ""
        return f"{flags}python benchmarks/{self.script}.py {shlex.join(self.options)}".rstrip()


def every(backend: str, quick: bool, reference: pathlib.Path | None) -> list[Job]:
    """All benchmarks for a backend, the most valuable first."""
    peers = []
    if reference is not None:
        if importlib.util.find_spec("torch") is None:
            raise ValueError("--reference needs PyTorch beside this project, which is not there")
        peers = peer_jobs(backend, quick, str(reference))
    if quick:
        return [*peers, *quick_jobs(backend)]
    return [*peers, *(cpu_jobs() if backend == "cpu" else gpu_jobs())]


def peer_jobs(backend: str, quick: bool, reference: str) -> list[Job]:
    """The training step and the evaluation beside PyTorch."""
    precisions = ("float32",) if backend == "cpu" or quick else ("bfloat16", "tf32", "float32")
    size = ("--pixels", "32", "--batch", "8", "--quick") if quick else ("--rounds", "5")
    made = []
    for precision, job in itertools.product(precisions, ("train", "evaluate")):
        how = ("--reference", reference, "--jobs", job, "--precision", precision, *size)
        how += ("--strategies", "masked", *(("blockwise",) if job == "train" else ()))
        if backend != "cpu" and not quick and job == "train" and precision == "bfloat16":
            how += ("--compile",)
        made.append(Job(f"peer-{job}-{precision}", "peer_alphanet", how, 3))
    return made


def quick_jobs(backend: str) -> list[Job]:
    """Everything in its quick form."""
    scripts = ("train_step", "evaluation", "compile", "gradient", "memory", "pointwise")
    scripts += ("norm", "profile_step", "costs", "predictors", "data", "racing")
    scripts += (
        ("kernels", "scaling", "export", "extraction", "report")
        if backend == "cpu"
        else ("gpu_program",)
    )
    tuned = ("train_step", "evaluation")
    return [Job(name, name, ("--quick",), 1, name in tuned) for name in scripts]


def cpu_jobs() -> list[Job]:
    """What two cores do in about an hour."""
    large = ("--space", "attentivenas", "--resolution", "128", "--batch", "32", "--rounds", "3")
    strategies = ("--strategies", "masked", "blockwise")
    return [
        Job("train_step", "train_step", (*large, *strategies), 8, True),
        Job("evaluation", "evaluation", large, 6, True),
        Job("train_step-digits", "train_step", (), 2),
        Job("evaluation-digits", "evaluation", (), 2),
        Job("compile", "compile", ("--rounds", "1"), 12),
        Job("memory", "memory", (), 5),
        Job("gradient", "gradient", ("--rounds", "3"), 10),
        Job("profile-largest", "profile_step", (*large, "--largest"), 2),
        Job("profile", "profile_step", large, 3),
        Job("pointwise", "pointwise", (), 1),
        Job("norm", "norm", (), 1),
        Job("kernels", "kernels", (), 1),
        Job("costs", "costs", (), 1),
        Job("predictors", "predictors", (), 2),
        Job("data", "data", (), 3),
        Job("scaling", "scaling", ("--rounds", "3"), 4),
        Job("export", "export", (), 2),
        Job("racing", "racing", (), 3),
        Job("extraction", "extraction", ("--rounds", "3"), 8),
        Job("report", "report", (), 2),
    ]


def gpu_jobs() -> list[Job]:
    """On an accelerator: several sizes, and both dtypes. Minutes are guesses."""
    space = ("--space", "attentivenas")
    small, large = (
        ("--resolution", "128", "--batch", "32"),
        ("--resolution", "224", "--batch", "128"),
    )
    short = ("--dtype", "bfloat16")
    return [
        step_job(128, 32, "float32", "masked", "blockwise"),
        step_job(128, 32, "bfloat16", "masked", "blockwise"),
        step_job(224, 128, "bfloat16", "masked", "blockwise", tuned=True),
        step_job(224, 128, "float32", "masked", "blockwise"),
        Job("evaluation-128px-32-float32", "evaluation", (*space, *small), 5, True),
        Job("evaluation-224px-128-bfloat16", "evaluation", (*space, *large, *short), 5, True),
        Job("compile", "compile", ("--rounds", "1"), 12),
        Job("profile-largest", "profile_step", (*space, *large, *short, "--largest"), 2),
        Job("gpu_program", "gpu_program", (*space, *large, *short), 4),
        Job("profile", "profile_step", (*space, *large, *short), 3),
        *(
            step_job(pixels, batch, dtype, "masked")
            for pixels, batch, dtype in itertools.product(
                (224, 192, 128), (256, 128, 32), ("bfloat16", "float32")
            )
            if (pixels, batch) not in ((128, 32), (224, 128))
        ),
        Job("memory", "memory", (), 4),
        Job("gradient", "gradient", ("--variants", "largest", "masked", "switched"), 5),
        Job("pointwise", "pointwise", (), 1),
        Job("norm", "norm", (), 1),
        Job("costs", "costs", (), 1),
        Job("predictors", "predictors", (), 2),
        Job("data", "data", (), 3),
        Job("racing", "racing", (), 3),
    ]


def step_job(pixels: int, batch: int, dtype: str, *strategies: str, tuned: bool = False) -> Job:
    """A training step of the published space."""
    how = ("--space", "attentivenas", "--resolution", str(pixels), "--batch", str(batch))
    how += ("--dtype", dtype, "--strategies", *strategies)
    minutes = 2 if strategies == ("masked",) else 4
    return Job(f"train_step-{pixels}px-{batch}-{dtype}", "train_step", how, minutes, tuned)


def with_variants(found: Iterable[Job], variants: Mapping[str, str]) -> list[Job]:
    """The jobs, and those that variants run again, right behind."""
    made = []
    for job in found:
        if "default" in variants:
            made.append(job)
        others = {name: flags for name, flags in variants.items() if name != "default"}
        if job.tuned:
            made += [
                job._replace(name=f"{job.name}-{name}", flags=flags)
                for name, flags in others.items()
            ]
    return made
