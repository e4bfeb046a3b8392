"""Operations written out in others, so that each has one meaning however a model calls it.

What torch composes of other operations is written out unless the rule set in use has a rule for it. The functions here
replace an operation that torch does not compose, or composes of parts whose rules make no sense. Their arguments and
shapes are those of the operation; broadcast operands are written ``(...)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import SymInt, Tensor, fx
from torch._C import DispatchKey
from torch._decomp import get_decompositions
from torch._ops import OpOverload
from torch.export import ExportedProgram

from relprop.errors import CaptureError
from relprop.tracing.lowering.bags import BAGS
from relprop.tracing.lowering.recurrent import WRITTEN_OUT

aten = torch.ops.aten


def decomposition_table(
    program: ExportedProgram, composed: Iterable[OpOverload]
) -> Mapping[OpOverload, Callable[..., Any]]:
    """Return what stands for operations of an exported program, for its ``run_decompositions``.

    Parameters
    ----------
    program : ExportedProgram
        The program.
    composed : iterable of OpOverload
        The composite operations to be written out.
    """
    attention = partial(_attention, infinite=_may_mask_by_infinity(program))
    return {
        **{operation: _composed(operation) for operation in composed},
        aten.scaled_dot_product_attention.default: attention,
        **_DECOMPOSITIONS,
    }


def composites(program: ExportedProgram) -> frozenset[OpOverload]:
    """Return the operations of a program that torch composes of others, those apart whose parts have no rules."""
    graphs = (module.graph for module in program.graph_module.modules() if isinstance(module, fx.GraphModule))
    called = {node.target for graph in graphs for node in graph.nodes if isinstance(node.target, OpOverload)}
    return frozenset(operation for operation in called if is_composite(operation) and not stays_whole(operation))


def stays_whole(operation: OpOverload) -> bool:
    """Whether an operation has no rule, and its parts have none either."""
    name = operation._schema.name.removeprefix("aten::")
    return operation in _WHOLE or (name.startswith(("fft_", "linalg_")) and name not in _OF_PRODUCTS)


def is_composite(operation: OpOverload) -> bool:
    """Whether torch composes an operation that returns tensors of others."""
    returned = operation._schema.returns
    tensors = bool(returned) and all("Tensor" in str(value.type) for value in returned)
    return tensors and operation.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)


def _may_mask_by_infinity(program: ExportedProgram) -> bool:
    """Whether minus infinity is written in a program, held by it, or may be given to it for all samples alike."""
    signature = program.graph_signature
    for node in program.graph.nodes:
        value = node.meta.get("val")
        given = node.name in signature.user_inputs and isinstance(value, Tensor) and value.is_floating_point()
        if (given and not _carries_batch(value)) or -math.inf in (*node.args, *node.kwargs.values()):
            return True
    held = (*(program.state_dict.get(name) for name in signature.buffers), *program.constants.values())
    floating = (value for value in held if isinstance(value, Tensor) and value.is_floating_point())
    return any(bool(value.isneginf().any()) for value in floating)


def _carries_batch(tensor: Tensor) -> bool:
    """Whether a size of a tensor, of any shape, depends on the number of samples."""
    return any(isinstance(size, SymInt) for size in tensor.shape)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    infinite: bool,
) -> Tensor:
    """Attention written out, so that it has one meaning.

    Of query ``(..., L, E)``, key ``(..., M, E)`` and value ``(..., M, V)`` it is ``(..., L, V)``; the mask broadcasts
    to ``(..., L, M)``. A query without any open key, as that of a padded position, attends to nothing; its softmax
    would be 0 / 0. Masks that have no such rows need no operations for it: causal ones, and, unless ``infinite``,
    learned biases.
    """
    if dropout_p:
        raise CaptureError("attention with dropout in evaluation mode: pass dropout_p=0.0 when not training")
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1])
    logits = (query * scale) @ key.transpose(-2, -1)
    closes = attn_mask is not None and (infinite or attn_mask.dtype == torch.bool or _carries_batch(attn_mask))
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -math.inf)
        if closes:
            closed = (attn_mask == -math.inf).all(-1, keepdim=True)
            attended = (logits + attn_mask.masked_fill(closed, 0.0)).softmax(-1) @ value
            return attended.masked_fill(closed, 0.0)
        logits = logits + attn_mask
    return logits.softmax(-1) @ value


def _add_product(term: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    """``addcmul`` of three ``(...)``, whose terms and factors share as those of any sum and product do."""
    return term + (a * b if value == 1 else a * b * value)


def _composed(operation: OpOverload) -> Callable[..., Any]:
    """Return what an operation stands for, in other operations: those of an einsum, or the one it is a name of."""

    def decomposition(*args: Any, **kwargs: Any) -> Any:
        # Not ``decompose``: that would look up this very function.
        return operation._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)

    return decomposition


def _add_quotient(term: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    """``addcdiv`` of three ``(...)``."""
    return term + (a / b if value == 1 else a / b * value)


def _add_matmul(term: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """``(..., n, p) + (..., n, m) @ (..., m, p)`` where the summand is an activation; a constant one is a bias."""
    if not _carries_batch(term):
        return NotImplemented
    product = a @ b
    return (term if beta == 1 else term * beta) + (product if alpha == 1 else product * alpha)


def _lerp(start: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """``start + weight (end - start)`` as a weighted sum of two ``(...)``."""
    return start * (1 - weight) + end * weight


def _bilinear(a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``sum_ij a_i w_kij b_j``, ``(..., K)``: a fully connected layer, and its product with the other input.

    The inputs are ``(..., I)`` and ``(..., J)``, the weight is ``(K, I, J)``, and the bias ``(K,)``.
    """
    outputs, _, width = weight.shape
    held = (a @ weight.transpose(0, 1).flatten(1)).unflatten(-1, (outputs, width))
    product: Tensor = (held @ b.unsqueeze(-1)).squeeze(-1)
    return product if bias is None else product + bias


def _distances(a: Tensor, b: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """``cdist`` of ``(..., n, m)`` and ``(..., p, m)``: the lengths ``(..., n, p)`` of differences."""
    lengths: Tensor = torch.linalg.vector_norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, -1)
    return lengths


def _vector_norm(
    x: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    """Return the extreme magnitude along axes of ``(...)``, where a norm is that; leave any other as it is."""
    if abs(ord) != math.inf or dtype not in (None, x.dtype):
        return NotImplemented
    dims = [dim] if isinstance(dim, int) else list(dim or range(x.ndim))
    return x.abs().amax(dims, keepdim) if ord > 0 else x.abs().amin(dims, keepdim)


def _extremes(x: Tensor, *, dim: int | None = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """``aminmax`` of ``(...)``: the smallest and the largest entry along an axis."""
    dims = [] if dim is None else [dim]
    return x.amin(dims, keepdim), x.amax(dims, keepdim)


def _with_mean(
    spread: Callable[..., Tensor], x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """Return a spread of ``(...)`` along axes, and the mean along the same."""
    dims = list(dim or range(x.ndim))
    return spread(x, dims, correction=1 if correction is None else correction, keepdim=keepdim), x.mean(dims, keepdim)


def _smooth_maximum(a: Tensor, b: Tensor) -> Tensor:
    """``log(exp(a) + exp(b))`` of two ``(...)``."""
    largest: Tensor = torch.stack(torch.broadcast_tensors(a, b)).logsumexp(0)
    return largest


def _hypotenuse(a: Tensor, b: Tensor) -> Tensor:
    """``sqrt(a^2 + b^2)`` of two ``(...)``."""
    length: Tensor = torch.linalg.vector_norm(torch.stack(torch.broadcast_tensors(a, b)), dim=0)
    return length


def _cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: int = 1,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Any:
    """Loss of each sample, ``(B,)``, of logits ``(B, C)`` for class indices ``(B,)``.

    With a dynamic batch torch (2.15) infers a wrong shape for it.
    """
    if label_smoothing:
        return NotImplemented
    return _log_likelihood(x.log_softmax(1), target, weight, reduction, ignore_index)


def _log_likelihood(
    x: Tensor, target: Tensor, weight: Tensor | None = None, reduction: int = 1, ignore_index: int = -100
) -> Any:
    """Negative log-likelihood of each sample, ``(B,)``, of log-probabilities ``(B, C)`` and classes ``(B,)``."""
    if target.is_floating_point() or weight is not None or reduction != 0 or ignore_index >= 0:
        return NotImplemented
    return -x.gather(1, target.unsqueeze(1)).squeeze(1)


def _bounded(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Any:
    """``clamp`` of ``(...)`` between tensors: an activation may win; constants make it an activation function."""
    if not any(bound is not None and _carries_batch(bound) for bound in (low, high)):
        return NotImplemented
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _rounded_quotient(a: Tensor, b: Any, *, rounding_mode: str | None) -> Any:
    """``div`` with a mode and ``//``, of two ``(...)``: a quotient, rounded.

    That of integers stays whole: it counts something, mostly rows to be read.
    """
    if rounding_mode is not None and not torch.result_type(a, b).is_floating_point:
        return NotImplemented
    quotient: Tensor = a / b
    return quotient if rounding_mode is None else quotient.floor() if rounding_mode == "floor" else quotient.trunc()


_OF_TORCH = (
    aten.affine_grid_generator.default,
    aten.binary_cross_entropy.default,
    aten.binary_cross_entropy_with_logits.default,
    aten.diag_embed.default,
    aten.huber_loss.default,
    aten.index_copy.default,
    aten.linalg_cross.default,
    aten.mse_loss.default,
    aten.nansum.default,
    aten.norm.ScalarOpt_dim,
    aten.smooth_l1_loss.default,
    aten.soft_margin_loss.default,
    aten.xlogy.Tensor,
)
"""Operations with a decomposition of torch's own."""

_TABLE_OF_TORCH = get_decompositions(_OF_TORCH)

_WHOLE = (aten.istft.default, aten.repeat_interleave.self_Tensor, aten.stft.center, aten.stft.default)
"""Operations composed of Fourier transforms, and those whose number of entries some tensor holds."""

_OF_PRODUCTS = (
    "linalg_diagonal",
    "linalg_matmul",
    "linalg_matrix_norm",
    "linalg_matrix_power",
    "linalg_multi_dot",
    "linalg_norm",
    "linalg_vecdot",
)
"""Operations of linear algebra that are no factorisations, for which there are no rules."""

_DECOMPOSITIONS: Mapping[OpOverload, Callable[..., Any]] = {
    **{operation: _TABLE_OF_TORCH[operation] for operation in _OF_TORCH},
    aten.addcdiv.default: _add_quotient,
    aten.addcmul.default: _add_product,
    aten.addmm.default: _add_matmul,
    aten.aminmax.default: _extremes,
    aten.baddbmm.default: _add_matmul,
    aten.bilinear.default: _bilinear,
    aten.cdist.default: _distances,
    aten.clamp.Tensor: _bounded,
    aten.cross_entropy_loss.default: _cross_entropy,
    aten.div.Scalar_mode: _rounded_quotient,
    aten.div.Tensor_mode: _rounded_quotient,
    aten.floor_divide.default: partial(_rounded_quotient, rounding_mode="floor"),
    aten.hypot.default: _hypotenuse,
    aten.lerp.Scalar: _lerp,
    aten.lerp.Tensor: _lerp,
    aten.linalg_vector_norm.default: _vector_norm,
    aten.logaddexp.default: _smooth_maximum,
    aten.mv.default: torch.matmul,
    aten.nll_loss_nd.default: _log_likelihood,
    aten.std_mean.correction: partial(_with_mean, torch.std),
    aten.var_mean.correction: partial(_with_mean, torch.var),
    **BAGS,
    **WRITTEN_OUT,
}
