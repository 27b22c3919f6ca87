"""The rooms of the package: imports run one way, and house rules that a parser can check."""

import ast
import pathlib
import re
import tokenize
from collections.abc import Iterator

import pytest
from conftest import ROOT

PACKAGE = ROOT / "supernet_jax"
# From the ground up; a module imports only from its own floor and those below it, never in a
# circle. A new room needs a place here.
FLOORS = (
    ("errors", "__init__"),
    ("runtime", "storage", "data"),
    ("nn", "tasks"),
    ("elastic",),
    ("spaces", "evaluation"),
    ("training", "searching", "networks"),
    ("experiment",),
    ("reporting", "launching"),
    ("cli",),
    ("__main__",),
)
RANKS = {room: rank for rank, row in enumerate(FLOORS) for room in row}
FILES = sorted(PACKAGE.rglob("*.py"))
LIMITS = {
    "orbax": {"storage.checkpoint", "storage.chunked_arrays", "storage.bucket_checkpoints"},
    "tensorstore": {"storage.chunked_arrays", "storage.bucket_arrays", "storage.buckets"},
    "pickle": set(),
    "torch": {
        *("networks.formats.torch", "networks.formats.torch_template"),
        "networks.formats.torch_text_template",
        "networks.importers.weight_files",
    },
    "tensorflow": set(),
    "optuna": {"searching.bayesian"},
    "tensorboardX": {"reporting.loggers.tensorboard"},
    "mlflow": {"reporting.loggers.mlflow"},
    "huggingface_hub": {"storage.hub"},
    "ray": {"runtime.ray_farm"},
}


def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: pathlib.Path) -> str:
    """`spaces.mobilenet`; packages are `searching.__init__`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {module_name(path) for path in FILES}


def outside_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from outside_type_checking(node)


def imported(tree: ast.AST) -> set[str]:
    """Full dotted names of what is imported: `from a import b` gives `a.b`."""
    found: set[str] = set()
    for node in outside_type_checking(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports absolutely"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(names: set[str]) -> set[str]:
    """Which modules of the package those names come from."""
    modules = set()
    for name in names:
        package, *parts = name.split(".")
        if package != "supernet_jax":
            continue
        dotted = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        tried = [variant for path in dotted for variant in (path, f"{path}.__init__")]
        modules.add(next((name for name in tried if name in MODULES), "__init__"))
    return modules


def upward(module: str, imports: set[str]) -> list[str]:
    """Those imports that lie above the module."""
    rank = RANKS[module.split(".")[0]]
    return sorted(name for name in imports if RANKS[name.split(".")[0]] > rank)


def circle(graph: dict[str, set[str]]) -> set[str]:
    """Modules that import each other in a circle, and what stands on those."""
    left = dict(graph)
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    return set(left)


GRAPH = {module_name(path): own(imported(parse(path))) for path in FILES}


def test_every_module_has_a_room() -> None:
    assert {name.split(".")[0] for name in MODULES} == set(RANKS)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_one_way(module: str) -> None:
    assert upward(module, GRAPH[module]) == []


def test_no_circles() -> None:
    assert circle(GRAPH) == set()


@pytest.mark.parametrize("package", LIMITS)
def test_packages_that_few_may_import(package: str) -> None:
    users = {
        module_name(path)
        for path in FILES
        if any(name.split(".")[0] == package for name in imported(parse(path)))
    }
    assert users == LIMITS[package]


def test_what_the_rules_would_find() -> None:
    tree = ast.parse(
        "import orbax.checkpoint as ocp\n"
        "from supernet_jax.elastic import choices, masks\n"
        "def f():\n    from supernet_jax.searching.pareto import pareto_front\n"
        "if typing.TYPE_CHECKING:\n    from supernet_jax.cli import main\n"
        "from supernet_jax.searching import run\n"
    )
    assert {name.split(".")[0] for name in imported(tree)} == {"orbax", "supernet_jax"}
    found = own(imported(tree))
    above = ["searching.__init__", "searching.pareto"]
    assert found == {"elastic.choices", "elastic.masks", *above}
    assert upward("spaces.mobilenet", found) == above
    assert upward("cli.info", found) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == set()
    assert circle({"a": {"b"}, "b": {"a"}, "c": set()}) == {"a", "b"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_house_rules(path: pathlib.Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, "split it"
    tree = parse(path)
    assert broken_rules(tree) == []


def test_what_the_house_rules_would_find() -> None:
    tree = ast.parse(
        "def f():\n    getattr(x, 'y')\n    getattr(x, y)\n"
        "try:\n    pass\nexcept:\n    pass\n"
        "class C:\n    '''Doc.'''\n    def m(self): pass\n    def _private(self): pass\n"
        "p.read_text()\np.write_text(t)\np.read_text('utf-8')\n"
        "p.write_text(t, encoding='utf-8')\n"
    )
    assert broken_rules(tree) == [
        (0, "no docstring"),
        (1, "no docstring"),
        (2, "getattr with a fixed name"),
        (6, "bare except"),
        (10, "no docstring"),
        (12, "text in whatever the locale says"),
        (13, "text in whatever the locale says"),
    ]


def broken_rules(tree: ast.Module) -> list[tuple[int, str]]:
    """Lines, and what is wrong with them."""
    broken = [(line, "no docstring") for line in undocumented(tree)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            broken.append((node.lineno, "bare except"))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("_text"):
            broken += [(node.lineno, "text in whatever the locale says")] * _locale(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            fixed = isinstance(node.args[1], ast.Constant)
            broken += [(node.lineno, "getattr with a fixed name")] if fixed else []
    return sorted(broken)


def _locale(call: ast.Call) -> bool:
    """Whether `path.read_text` or `write_text` leaves the encoding open."""
    name, given = ast.unparse(call.func).rpartition(".")[2], [k.arg for k in call.keywords]
    wanted = {"read_text": 1, "write_text": 2}.get(name, 0)
    return len(call.args) < wanted and "encoding" not in given


def undocumented(tree: ast.Module) -> list[int]:
    """Lines of public functions, classes and methods without a docstring; 0 is the module."""
    lines = [] if ast.get_docstring(tree) else [0]
    nodes = list(tree.body)
    for node in nodes:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        is_module = isinstance(node, ast.ClassDef) and "nn.Module" in map(ast.unparse, node.bases)
        lines += [] if ast.get_docstring(node) else [node.lineno]
        if isinstance(node, ast.ClassDef) and not is_module:
            nodes += node.body
    return lines


# What goes past `storage` would find no file of a run that lies in a bucket.
PAST_STORAGE = {
    "os.path": {"exists", "lexists", "isfile", "isdir", "getsize", "getmtime", "islink"},
    "os": {
        *("open", "stat", "replace", "rename", "unlink", "remove", "rmdir", "listdir", "scandir"),
        *("walk", "mkdir", "makedirs", "utime", "truncate", "link", "symlink"),
    },
    "shutil": {"rmtree", "copy", "copyfile", "copytree", "move"},
    "glob": {"glob", "iglob"},
    "tempfile": {"mkdtemp", "mkstemp", "TemporaryDirectory", "NamedTemporaryFile"},
}
OF_PATHS = {
    *("open", "stat", "lstat", "unlink", "rename", "rmdir", "mkdir", "touch", "glob", "rglob"),
    *("read_text", "read_bytes", "write_text", "write_bytes", "symlink_to"),
}
ROOMS = ("training", "searching", "networks", "experiment", "reporting", "cli", "evaluation")
# Modules that read or write other files than those of a run, or a folder on its way to be one.
OTHER_FILES = (
    "networks.formats.",
    "networks.importers.weight_files",  # as `local_copy` has it
    "cli.main",  # standard streams
)


def past_storage(tree: ast.Module) -> list[str]:
    """Calls by which a module touches files itself."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        owner, _, name = called.rpartition(".")
        by_module = name in PAST_STORAGE.get(owner, ()) or called == "open"
        of_a_path = owner and name in OF_PATHS and owner not in ("files", "Image", "buckets")
        in_package = owner.startswith("importlib.resources")
        if by_module or (of_a_path and not in_package):
            found.append(f"line {node.lineno}: {called}")
    return found


def test_files_of_a_run_go_through_storage() -> None:
    seen = {
        module_name(path): past_storage(parse(path))
        for path in FILES
        if module_name(path).startswith(ROOMS) and not module_name(path).startswith(OTHER_FILES)
    }
    assert {name: calls for name, calls in seen.items() if calls} == {}
    assert len(seen) > 60


def test_the_check_finds_what_goes_past_storage() -> None:
    calls = ("open(p)", "os.path.exists(p)", "(folder / 'x').read_text()", "shutil.rmtree(p)")
    assert len(past_storage(ast.parse("\n".join(calls)))) == len(calls)
    assert past_storage(ast.parse("files.read_text(p); text.replace(a, b); p.exists()")) == []


# Rooms that know nothing of any kind of data: what is about images lives in `tasks`, `data`, `nn`,
# `spaces` and, for what folders of image classifiers hold, in files of `networks` named below.
CORE = ("elastic", "training", "evaluation", "searching", "networks")
OF_IMAGES = re.compile(
    r"(?<![a-z])(images?|pixels?|resolutions?|convolutions?|classes)(?![a-z])", re.I
)
KEPT = {
    # The type of the data room, and fields of a table as its files have them.
    "training/batches.py": {"Images"},
    "training/job.py": {"Images"},
    "evaluation/latency_table.py": {"images", "resolutions"},
    # Networks that teach images, which are taken out of runs or folders of such.
    "training/teachers/outside_network.py": {"image", "images", "classes"},
    "training/teachers/extracted_network.py": {"images", "classes"},
    "training/teachers/other_supernet.py": {"images", "classes"},
    # A function of JAX.
    "training/losses/features.py": {"image"},
    # Fields of `network.json` and of a latency table, and of `Export` as a user's option has them.
    "networks/description.py": {"images"},
    "networks/description_parts.py": {"images", "pixels"},
    "networks/manifest.py": {"images"},
    "networks/timing.py": {"resolutions"},
    "networks/formats/format.py": {"pixels"},
    "networks/formats/stablehlo.py": {"pixels"},
    "networks/formats/table.py": {"images", "pixels"},
    # Messages of importers, which only image classifiers have had so far.
    "networks/importers/plain_network.py": {"resolution"},
    "networks/importers/tensor_mapping.py": {"classes"},
    # What is of image classifiers alone.
    "networks/classifier_description.py": {"image", "images", "pixels", "resolution", "classes"},
    "networks/classifier_inputs.py": {"image", "Image", "images", "pixel", "pixels"},
    "networks/classifier_manifest.py": {
        *("image", "Image", "IMAGE", "images", "pixel", "pixels", "resolution", "classes"),
    },
    # What the hub calls the tasks.
    "networks/hub_card.py": {"image"},
    # Formats that are written layer by layer, and names in their files.
    "networks/formats/onnx.py": {"images", "classes"},
    "networks/formats/onnx_graph.py": {"convolution"},
    "networks/formats/onnx_traced.py": {"convolution"},
    "networks/formats/onnx_inputs.py": {
        *("images", "Images", "IMAGES", "pixel", "pixels", "resolution"),
    },
    "networks/formats/onnx_tokens.py": {"classes"},
    "networks/formats/torch.py": {
        *("PIXELS", "pixels", "RESOLUTION", "resolution", "CLASSES", "classes"),
    },
    "networks/formats/torch_template.py": {
        *("image", "Image", "IMAGE", "images", "Images", "pixel", "pixels", "Pixels", "PIXELS"),
        *("RESOLUTION", "CLASSES", "classes", "convolution"),
    },
}


def named_of_images(path: pathlib.Path) -> set[tuple[int, str]]:
    """Lines, and the word in them."""
    kinds = (tokenize.NAME, tokenize.STRING, tokenize.COMMENT)
    kinds += (getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING),)  # of Python 3.12
    with tokenize.open(path) as file:
        return {
            (token.start[0], word[0])
            for token in tokenize.generate_tokens(file.readline)
            if token.type in kinds
            for word in OF_IMAGES.finditer(token.string)
        }


@pytest.mark.parametrize("room", CORE)
def test_the_core_names_nothing_of_images(room: str) -> None:
    for path in sorted((PACKAGE / room).rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        found = named_of_images(path)
        assert not {(line, word) for line, word in found if word not in KEPT.get(name, ())}, name


@pytest.mark.parametrize("name", KEPT)
def test_no_word_is_kept_that_is_gone(name: str) -> None:
    assert KEPT[name] == {word for _, word in named_of_images(PACKAGE / name)}
