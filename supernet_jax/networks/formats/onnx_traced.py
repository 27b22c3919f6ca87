"""Any network as operations of ONNX, from what JAX traces of it.

`onnx_graph` writes the blocks that it knows by hand, which makes graphs that people can read; this
file writes all others, operation by operation of the traced program, with the batch left open.
What depends on weights alone is computed now. Broadcasting is left to ONNX where its operations do
it themselves.

Shape letters: `B` examples.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import InconclusiveDimensionOperation

from supernet_jax.errors import UserError
from supernet_jax.networks.formats.onnx_operations import Graph
from supernet_jax.networks.formats.onnx_values import Held, Shape, Values, cannot, known
from supernet_jax.runtime import native

# As ONNX numbers its types.
TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9}
# Operations of JAX that one of ONNX does for each element.
ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "ceil": "Ceil",
    "cos": "Cos",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
    "xor": "Xor",
}
REDUCED = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_prod": "ReduceProd"}
SAME = ("stop_gradient", "copy", "copy_p", "reduce_precision", "optimization_barrier")
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr"}
CALLS |= {"remat2": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def add(
    graph: Graph, function: Callable[[jax.Array], jax.Array], given: str, one: jax.ShapeDtypeStruct
) -> None:
    """Adds a function; what it gives is the value of the graph's last node.

    Args:
        graph: to add to.
        function: of one array, with its weights inside.
        given: name of its input in the graph, whose first axis is of any size.
        one: shape and dtype of one example of the input, with a leading 1.

    Raises:
        UserError: it cannot be traced for any batch size, or does what cannot be written.
    """
    [batch] = jax.export.symbolic_shape("batch")
    taken = jax.ShapeDtypeStruct((batch, *one.shape[1:]), one.dtype)
    writer, x = _Writer(graph, given, batch), Held(taken.shape, taken.shape, given)
    try:
        # Kernels built here are not there where the file is run.
        with native.aside():
            program = jax.make_jaxpr(function)(taken)
        [y] = writer.run(program.jaxpr, program.consts, [x])
    except (TypeError, ValueError, NotImplementedError, InconclusiveDimensionOperation) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"the network cannot be written as onnx ({reason}); its blocks and topology must work "
            "for a batch of any size"
        ) from error
    writer.node("Identity", writer.full(y))


class _Writer(Values):
    """Writes one program into a graph."""

    # ---- the program

    def run(self, program: Any, constants: Sequence[Any], inputs: Sequence[Held]) -> list[Held]:
        """Writes a program, and gives its results."""
        values: dict[Any, Held] = {}
        for var, constant in zip(program.constvars, constants, strict=True):
            values[var] = known(constant)
        values.update(zip(program.invars, inputs, strict=True))

        def read(atom: Any) -> Held:
            if isinstance(atom, jax.extend.core.Literal):
                aval: Any = atom.aval
                return known(np.asarray(atom.val, aval.dtype))
            return values[atom]

        outer = self.scope
        for equation in program.eqns:
            stack = str(equation.source_info.name_stack).split("/", 1)
            self.scope = f"{stack[1]}/" if len(stack) > 1 else outer
            given = [read(atom) for atom in equation.invars]
            values.update(zip(equation.outvars, self.write(equation, given), strict=True))
        self.scope = outer
        return [read(atom) for atom in program.outvars]

    def write(self, equation: Any, given: list[Held]) -> list[Held]:
        """Writes one operation, and gives its results."""
        kind, how = equation.primitive.name, equation.params
        shapes: list[Shape] = [tuple(var.aval.shape) for var in equation.outvars]
        if kind in CALLS:
            inner = how[CALLS[kind]]
            closed = hasattr(inner, "consts")
            return self.run(inner.jaxpr if closed else inner, inner.consts if closed else (), given)
        if kind in SAME:
            return given
        if kind == "cond" and how.get("branches_platforms"):
            # What other machines than those that JAX knows of would run: plain operations.
            inner = how["branches"][-1]
            return self.run(inner.jaxpr, inner.consts, given[1:])
        if kind == "platform_index":
            return [known(np.int32(0))]
        whole = all(x.known is not None and x.kept == x.shape for x in given)
        if whole and all(isinstance(size, int) for shape in shapes for size in shape):
            made = equation.primitive.bind(*[jnp.asarray(x.known) for x in given], **how)
            return [known(m) for m in (made if equation.primitive.multiple_results else [made])]
        elementwise = f"_{kind}_elementwise"
        if kind in ELEMENTWISE or hasattr(self, elementwise):
            kept = _broadcast([x.kept for x in given])
            names = [self.held(x) for x in given]
            special = getattr(self, elementwise, None)
            name = special(names, how) if special else self.node(ELEMENTWISE[kind], *names)
            return [Held(shapes[0], kept, name)]
        if kind in REDUCED:
            axes = list(how["axes"])
            name = self.node(REDUCED[kind], self.full(given[0]), axes=axes, keepdims=0)
            return [Held(shapes[0], shapes[0], name)]
        special = getattr(self, f"_{kind}", None)
        if special is None:
            raise cannot(f"the operation {kind}")
        made = special(given, how, shapes[0])
        if isinstance(made, str):
            return [Held(shapes[0], shapes[0], made)]
        return [made] if isinstance(made, Held) else made

    # ---- element by element

    def _rsqrt_elementwise(self, x: list[str], how: Any) -> str:
        return self.node("Reciprocal", self.node("Sqrt", *x))

    def _square_elementwise(self, x: list[str], how: Any) -> str:
        return self.node("Mul", x[0], x[0])

    def _integer_pow_elementwise(self, x: list[str], how: Any) -> str:
        return self.node("Pow", x[0], self.constant(np.float32(how["y"])))

    def _exp2_elementwise(self, x: list[str], how: Any) -> str:
        return self.node("Pow", self.constant(np.float32(2)), x[0])

    def _log1p_elementwise(self, x: list[str], how: Any) -> str:
        return self.node("Log", self.node("Add", x[0], self.constant(np.float32(1))))

    def _erfc_elementwise(self, x: list[str], how: Any) -> str:
        return self.node("Sub", self.constant(np.float32(1)), self.node("Erf", *x))

    def _ne_elementwise(self, x: list[str], how: Any) -> str:
        return self.node("Not", self.node("Equal", *x))

    def _rem_elementwise(self, x: list[str], how: Any) -> str:
        return self.node("Mod", *x, fmod=1)

    def _clamp_elementwise(self, x: list[str], how: Any) -> str:
        low, value, high = x
        return self.node("Min", self.node("Max", value, low), high)

    def _convert_element_type_elementwise(self, x: list[str], how: Any) -> str:
        return self.node("Cast", *x, to=_type(how["new_dtype"]))

    def _select_n_elementwise(self, x: list[str], how: Any) -> str:
        which, no, *yes = x
        if len(yes) != 1:
            raise cannot("a choice among more than two arrays")
        return self.node("Where", self.node("Cast", which, to=TYPES["bool"]), yes[0], no)

    # ---- shapes

    def _reshape(self, x: list[Held], how: Any, shape: Shape) -> Held:
        return self.reshaped(x[0], shape)

    _squeeze = _expand_dims = _reshape

    def _broadcast_in_dim(self, x: list[Held], how: Any, shape: Shape) -> Held:
        axes = how["broadcast_dimensions"]
        own, kept = [1] * len(shape), [1] * len(shape)
        for axis, size, held in zip(axes, x[0].shape, x[0].kept, strict=True):
            own[axis], kept[axis] = size, held
        placed = self.reshaped(x[0], tuple(own))
        return dataclasses.replace(placed, shape=shape)

    def _transpose(self, x: list[Held], how: Any, shape: Shape) -> Held:
        axes = how["permutation"]
        kept = tuple(x[0].kept[axis] for axis in axes)
        if x[0].known is not None:
            return Held(shape, kept, known=x[0].known.transpose(axes))
        return Held(shape, kept, self.node("Transpose", self.held(x[0]), perm=list(axes)))

    def _concatenate(self, x: list[Held], how: Any, shape: Shape) -> str:
        return self.node("Concat", *map(self.full, x), axis=how["dimension"])

    def _stack(self, x: list[Held], how: Any, shape: Shape) -> str:
        axis, parts = how["axis"], []
        for each in x:
            own = (*each.shape[:axis], 1, *each.shape[axis:])
            parts.append(self.full(self.reshaped(each, own)))
        return self.node("Concat", *parts, axis=axis)

    def _slice(self, x: list[Held], how: Any, shape: Shape) -> str:
        steps = how["strides"] or (1,) * len(shape)
        rows = zip(how["start_indices"], how["limit_indices"], steps, x[0].shape, strict=True)
        cuts = [(i, *row[:3]) for i, row in enumerate(rows) if row[:3] != (0, row[3], 1)]
        if not cuts:
            return self.full(x[0])
        if not all(isinstance(number, int) for cut in cuts for number in cut):
            raise cannot("a part of the batch")
        axes, starts, ends, each = (self.integers(c) for c in zip(*cuts, strict=True))
        return self.node("Slice", self.full(x[0]), starts, ends, axes, each)

    def _split(self, x: list[Held], how: Any, shape: Shape) -> list[Held]:
        parts, start, axis = [], 0, how["axis"]
        whole = self.full(x[0])
        for size in how["sizes"]:
            own = (*shape[:axis], size, *shape[axis + 1 :])
            ends = (self.integers([n]) for n in (start, start + size, axis))
            parts.append(Held(own, own, self.node("Slice", whole, *ends)))
            start += size
        return parts

    def _unstack(self, x: list[Held], how: Any, shape: Shape) -> list[Held]:
        parts, axis, whole = [], how["axis"], self.full(x[0])
        own = (*shape[:axis], 1, *shape[axis:])
        for i in range(x[0].shape[axis]):
            ends = (self.integers([n]) for n in (i, i + 1, axis))
            cut = Held(own, own, self.node("Slice", whole, *ends))
            parts.append(self.reshaped(cut, shape))
        return parts

    def _pad(self, x: list[Held], how: Any, shape: Shape) -> str:
        low, high, inside = zip(*how["padding_config"], strict=True)
        if any(inside):
            raise cannot("padding between elements")
        value = self.held(x[1])
        return self.node("Pad", self.full(x[0]), self.integers([*low, *high]), value)

    def _rev(self, x: list[Held], how: Any, shape: Shape) -> str:
        axes, ones = how["dimensions"], [-1] * len(how["dimensions"])
        ends = self.integers([np.iinfo(np.int64).min] * len(axes))
        first = self.integers(ones)
        return self.node("Slice", self.full(x[0]), first, ends, self.integers(axes), first)

    def _iota(self, x: list[Held], how: Any, shape: Shape) -> Held:
        axis, size = how["dimension"], shape[how["dimension"]]
        if not isinstance(size, int):
            raise cannot("counting the examples of a batch")
        kept = tuple(size if i == axis else 1 for i in range(len(shape)))
        return Held(shape, kept, known=np.arange(size, dtype=how["dtype"]).reshape(kept))

    # ---- sums

    def _reduce_sum(self, x: list[Held], how: Any, shape: Shape) -> str:
        return self.node("ReduceSum", self.full(x[0]), self.integers(how["axes"]), keepdims=0)

    def _argmax(self, x: list[Held], how: Any, shape: Shape) -> str:
        [axis] = how["axes"]
        found = self.node("ArgMax", self.full(x[0]), axis=axis, keepdims=0)
        return self.node("Cast", found, to=_type(how["index_dtype"]))

    def _cumsum(self, x: list[Held], how: Any, shape: Shape) -> str:
        axis = self.constant(np.int64(how["axis"]))
        return self.node("CumSum", self.full(x[0]), axis, reverse=int(how["reverse"]))

    def _reduce_window_sum(self, x: list[Held], how: Any, shape: Shape) -> str:
        mean = self._pooled("AveragePool", x[0], how, count_include_pad=1)
        return self.node("Mul", mean, self.constant(np.float32(np.prod(how["window_dimensions"]))))

    def _reduce_window_max(self, x: list[Held], how: Any, shape: Shape) -> str:
        return self._pooled("MaxPool", x[0], how)

    def _pooled(self, kind: str, x: Held, how: Any, **more: Any) -> str:
        """Windows along all axes but two, which become the first two, as ONNX wants it."""
        windows, strides, pads = (
            how[k] for k in ("window_dimensions", "window_strides", "padding")
        )
        if any(d != 1 for d in (*how["base_dilation"], *how["window_dilation"])):
            raise cannot("windows with holes")
        still = [i for i, row in enumerate(zip(windows, strides, pads, strict=True))
                 if row == (1, 1, (0, 0))]  # fmt: skip
        moved = [i for i in range(len(windows)) if i not in still]
        extra = still[2:]  # windows of one element
        if len(still) < 2:
            raise cannot("windows over examples or channels")
        order = [*still[:2], *sorted([*moved, *extra])]
        last = order[2:]
        pooled = self.node(
            kind,
            self.node("Transpose", self.full(x), perm=order),
            kernel_shape=[windows[i] for i in last],
            strides=[strides[i] for i in last],
            pads=[*(pads[i][0] for i in last), *(pads[i][1] for i in last)],
            **more,
        )
        return self.node("Transpose", pooled, perm=[int(i) for i in np.argsort(order)])

    # ---- products

    def _dot_general(self, x: list[Held], how: Any, shape: Shape) -> str:
        """As an Einsum, unless one of ONNX's products does it."""
        (left, right), (left_batch, right_batch) = how["dimension_numbers"]
        a, b = x
        ranks = len(a.shape), len(b.shape)
        if (left, right) == ((ranks[0] - 1,), (0,)) and ranks[1] == 2 and not left_batch:
            return self.node("MatMul", self.full(a), self.full(b))
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        one = [next(letters) for _ in a.shape]
        other = [next(letters) for _ in b.shape]
        for i, j in zip((*left_batch, *left), (*right_batch, *right), strict=True):
            other[j] = one[i]
        free = [c for i, c in enumerate(one) if i not in (*left_batch, *left)]
        free += [c for j, c in enumerate(other) if j not in (*right_batch, *right)]
        result = [one[i] for i in left_batch] + free
        equation = f"{''.join(one)},{''.join(other)}->{''.join(result)}"
        return self.node("Einsum", self.full(a), self.full(b), equation=equation)

    def _conv_general_dilated(self, x: list[Held], how: Any, shape: Shape) -> str:
        if any(d != 1 for d in how["lhs_dilation"]) or how["batch_group_count"] != 1:
            raise cannot("a transposed convolution")
        numbers, pads = how["dimension_numbers"], how["padding"]
        whole = self.node("Transpose", self.full(x[0]), perm=list(numbers.lhs_spec))
        if x[1].known is not None and x[1].kept == x[1].shape:
            kernel = self.constant(x[1].known.transpose(numbers.rhs_spec))
        else:
            kernel = self.node("Transpose", self.full(x[1]), perm=list(numbers.rhs_spec))
        made = self.node(
            "Conv",
            whole,
            kernel,
            strides=list(how["window_strides"]),
            dilations=list(how["rhs_dilation"]),
            pads=[*(low for low, _ in pads), *(high for _, high in pads)],
            group=how["feature_group_count"],
        )
        return self.node("Transpose", made, perm=[int(i) for i in np.argsort(numbers.out_spec)])

    def _gather(self, x: list[Held], how: Any, shape: Shape) -> str:
        """Rows by their numbers, as of a table of embeddings, or one part at a known place."""
        table, numbers = x
        at = how["dimension_numbers"]
        axes, sizes = at.start_index_map, how["slice_sizes"]
        if len(numbers.shape) == 1 and numbers.known is not None:
            return self._part(table, numbers.known, axes, sizes, shape)
        whole = [size for i, size in enumerate(sizes) if i not in axes]
        if (
            len(axes) != 1
            or at.collapsed_slice_dims != axes
            or at.operand_batching_dims
            or whole != [size for i, size in enumerate(table.shape) if i not in axes]
        ):
            raise cannot("a gathering of parts that are no rows")
        [axis] = axes
        which = self.reshaped(numbers, numbers.shape[:-1])
        found = self.node("Gather", self.full(table), self.full(which), axis=axis)
        # ONNX puts the numbers' axes where the table's axis was, JAX all others at `offset_dims`.
        rank = len(which.shape)
        others = [i for i in range(len(shape)) if not axis <= i < axis + rank]
        order, rows = [0] * len(shape), iter(range(axis, axis + rank))
        offsets = dict(zip(at.offset_dims, others, strict=True))
        for i in range(len(shape)):
            order[i] = offsets[i] if i in offsets else next(rows)
        return found if order == sorted(order) else self.node("Transpose", found, perm=order)

    def _part(self, x: Held, first: np.ndarray, axes: Any, sizes: Shape, shape: Shape) -> str:
        """What begins at `first` along some axes, of these sizes."""
        ends = [int(start) + sizes[axis] for start, axis in zip(first, axes, strict=True)]
        cut = (self.integers(list(numbers)) for numbers in (first, ends, axes))
        part = self.node("Slice", self.full(x), *cut)
        return self.full(self.reshaped(Held(sizes, sizes, part), shape))


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    """Of operands, some of which may be single numbers; a size other than 1 wins."""
    rank = max(map(len, shapes))
    sizes = zip(*(shape for shape in shapes if len(shape) == rank), strict=True)
    return tuple(next((size for size in column if size != 1), 1) for column in sizes)


def _type(dtype: Any) -> int:
    name = np.dtype(dtype).name
    if name not in TYPES:
        raise cannot(f"numbers of the type {name}")
    return TYPES[name]
