"""Rewriting: a plan becomes one program, the forward pass followed by the relevance of every operation."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from relprop.assign.concepts import ConceptLayer
from relprop.assign.contrasts import ContrastKind
from relprop.assign.plan import Plan
from relprop.graph.arguments import argument_nodes, bind_arguments
from relprop.graph.dataflow import is_complex
from relprop.graph.graph import drop_unused
from relprop.rewrite.buffers import add
from relprop.rewrite.concepts import ConceptStep
from relprop.rewrite.folding import FoldedLayer
from relprop.rewrite.hooks import RelevanceHook
from relprop.rewrite.looked_up import add_looked_up
from relprop.rewrite.passing import passed_part
from relprop.rewrite.program import RelevanceProgram
from relprop.rewrite.seed import Seed, add_scores, in_one_pass, seed_names
from relprop.rewrite.signed import add_flows, net, signed_nodes, stack_outputs
from relprop.rewrite.step import Step, all_of, positive_gains
from rule_registry import BatchAxis, layer_arguments
from rule_registry.factored import behind_function, whole


def rewrite(
    plan: Plan,
    contrast: ContrastKind = None,
    layers: Mapping[str, Sequence[fx.Node]] | None = None,
    hooks: Mapping[fx.Node, Sequence[RelevanceHook]] | None = None,
    concepts: Sequence[ConceptLayer] = (),
) -> RelevanceProgram:
    """Turn a plan into a program.

    Parameters
    ----------
    plan : Plan
        From `relprop.assign.assign`.
    contrast : int, "rest", "log-odds", "class" or None
        Whether a second seed, of this class, of the other classes or of one class per sample, goes through in the same
        pass; under linear rules it is subtracted from the first before.
    layers : mapping, optional
        Further nodes whose relevance the program returns, by name.
    hooks : mapping, optional
        What relevance goes through at some nodes, in order.
    concepts : sequence of ConceptLayer
        Layers whose channels get flows of their own, in the order in which relevance comes to them; without hooks.

    Returns
    -------
    RelevanceProgram
    """
    return _Rewriter(plan, contrast, layers or {}, hooks or {}, concepts).program()


class _Rewriter:
    """Builds the program's graph; relevance is collected per node and handed on in reverse order."""

    def __init__(
        self,
        plan: Plan,
        contrast: ContrastKind,
        layers: Mapping[str, Sequence[fx.Node]],
        hooks: Mapping[fx.Node, Sequence[RelevanceHook]],
        concepts: Sequence[ConceptLayer],
    ) -> None:
        self.plan = plan
        self.layers = layers
        self.hooks = hooks
        self.concepts = {layer.node: layer for layer in concepts}
        self.wanted = {node for nodes in layers.values() for node in nodes} | {*plan.sources, *hooks, *self.concepts}
        self.contrast = contrast
        one_pass = in_one_pass(contrast, plan.rules)
        self.seeds = len(seed_names(contrast, one_pass))
        self.signs_apart = bool(hooks) and plan.conserves
        signed_seed = one_pass or plan.rules.seed == "output"
        # Where all rules conserve, the flows stay apart and no step has to split them.
        self.signed = set() if plan.conserves else signed_nodes(plan, hooks, signed_seed)
        self.graph = fx.Graph()
        self.members: dict[str, Tensor | nn.Module] = dict(plan.graph.tensors)
        self.forward: dict[fx.Node, fx.Node] = {}
        self.arriving: dict[fx.Node, list[fx.Node]] = {}
        self.relevance: dict[fx.Node, fx.Node] = {}
        self.records: dict[str, fx.Node] = {}
        self.hooked: dict[str, list[fx.Node]] = {}
        self.positive: dict[fx.Node, fx.Node] = {}
        self.observed: dict[fx.Node, list[fx.Node]] = {}
        self.channels: dict[str, fx.Node] = {}
        self.parted: dict[str, tuple[fx.Node, fx.Node]] = {}
        classes = plan.graph.output.meta["val"].ndim == 2  # a callable target leaves one number per sample
        self.seed = self._member("seed", Seed(contrast, plan.rules.seed, classes, one_pass))

    def program(self) -> RelevanceProgram:
        for node in self.plan.graph.graph.nodes:
            if node.op == "output":
                break
            self.forward[node] = self.graph.node_copy(node, self.forward.__getitem__)
            self.forward[node]._rename(node.name)
        target, against = self._class_inputs()
        output = self.forward[self.plan.graph.output]
        scores = add_scores(self.graph, self.forward, self.plan.scores)
        seed = self._emit("seeds", "call_module", self.seed, (output, target, scores, against))
        self.arriving[self.plan.graph.output] = [self._item(seed, 0, "seeds_relevance")]
        for node in reversed(list(self.forward)):
            if node in self.wanted:
                self._collect(node)
            if node in self.plan.sites:
                self._hand_on(node)
            elif node.target is operator.getitem and node in self.arriving:
                self._collect(node)
        self.graph.output(
            {
                "output": output,
                "target": self._item(seed, 1, "chosen_target"),
                "relevance": [self._returned(node) for node in self.plan.sources],
                "looked_up": add_looked_up(self.graph, self.forward, self.plan.lookups, self._times_value),
                "layers": {name: [self._returned(node) for node in nodes] for name, nodes in self.layers.items()},
                "mass": self._item(seed, 2, "seeds_mass"),
                "unit": self._item(seed, 3, "seeds_unit"),
                "records": dict(self.records),
                "hooks": dict(self.hooked),
                "concepts": dict(self.parted),
            }
        )
        drop_unused(self.graph)
        self.graph.lint()
        return RelevanceProgram(self.members, self.graph, "RelevanceProgram")

    def _returned(self, node: fx.Node) -> fx.Node:
        """Return what the program says of a source or a layer."""
        relevance = self._whole(node.name, self.relevance[node])
        if self.signs_apart:
            relevance = self._emit(f"net_{node.name}", "call_function", net, (relevance, self.seeds))
        if not self.plan.rules.times_input:
            return relevance
        return self._emit("times_input", "call_function", operator.mul, (relevance, self.forward[node]))

    def _whole(self, name: str, relevance: fx.Node) -> fx.Node:
        """Multiply a relevance out where rules may leave that open: those that measure mass."""
        return relevance if self.plan.conserves else self._emit(f"whole_{name}", "call_function", whole, (relevance,))

    def _times_value(self, node: fx.Node) -> fx.Node:
        """Return the relevance of a looked-up value; under a gradient, times the value: its own has no meaning."""
        relevance = self._returned(node)
        if self.plan.rules.mass != "ignored" or self.plan.rules.times_input:
            return relevance
        return self._emit("times_value", "call_function", operator.mul, (relevance, self.forward[node]))

    def _class_inputs(self) -> tuple[fx.Node, fx.Node | None]:
        """Return the inputs that say which classes are explained, and against which, if that is a class."""
        last = self.forward[self.plan.graph.inputs[-1]]
        for layer in self.concepts.values():
            last = self.channels[layer.path] = self._input("channels", last, None)
        target = self._input("target", last, None)
        if self.contrast is None or self.contrast in ("rest", "log-odds"):
            return target, None
        return target, self._input("contrast", target, self.contrast if isinstance(self.contrast, int) else None)

    def _input(self, name: str, after: fx.Node, default: int | None) -> fx.Node:
        used = {str(node.target) for node in (*self.plan.graph.inputs, *self.channels.values())}
        while name in used:
            name += "_"
        with self.graph.inserting_after(after):
            return self.graph.placeholder(name, default_value=default)

    def _hand_on(self, node: fx.Node) -> None:
        """Apply the rule of an operation to what arrived and collect its shares at the inputs."""
        arrived = self._collect(node)
        site, rule = self.plan.sites[node], self.plan.assigned[node]
        if arrived is None or rule.kind == "blocks":
            return
        if node in self.plan.merged.values():
            self.arriving.setdefault(node.args[0], []).append(self.relevance[_first_part(node)])  # type: ignore[arg-type]
            return
        by_slot = dict(argument_nodes(node))
        inputs = [by_slot[slot] for slot in site.active]
        if rule.kind == "passes":
            self._pass_on(node, arrived, inputs)
            return
        rules = self.plan.rules
        where = self.plan.graph.describe(node)
        mass = rules.mass_of(rule)
        step_module = Step(site, rule, where, mass, nets=mass == "conserved" and node in self.signed)
        name = self._member(f"rule_{node.name}", step_module)
        args = fx.map_arg(node.args, self.forward.__getitem__)
        kwargs = fx.map_arg(node.kwargs, self.forward.__getitem__)
        output = node
        if node in self.plan.merged:
            args, kwargs = (), self._folded(node, bind_arguments(node, args, kwargs))
            output = _first_part(self.plan.merged[node])
        if node in self.plan.gains:
            kwargs = {**kwargs, "rectified": self._rectified(node)}
        step = self._emit(f"shares_{node.name}", "call_module", name, (arrived, self.forward[output], *args), kwargs)
        for k, source in enumerate(inputs):
            self.arriving.setdefault(source, []).append(self._item(step, k, f"to_{source.name}"))
        if mass != "ignored":
            self.records[node.name] = self._item(step, len(inputs), f"record_{node.name}")

    def _pass_on(self, node: fx.Node, arrived: fx.Node, inputs: Sequence[fx.Node]) -> None:
        """Hand relevance on as it is."""
        rule = self.plan.assigned[node]
        passed = passed_part(f"{rule} is the rule of {self.plan.graph.describe(node)}", node, arrived, inputs)
        if is_complex(node) and not is_complex(inputs[0]):  # the gradient of a cast
            passed = self._emit(f"real_{node.name}", "call_function", torch.real, (self._whole(node.name, passed),))
        elif not (rule.keeps or self.plan.conserves):
            passed = self._emit(f"behind_{node.name}", "call_function", behind_function, (passed,))
        self.arriving.setdefault(inputs[0], []).append(passed)

    def _folded(self, layer: fx.Node, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return a layer's arguments with weight and bias of it and its norm together."""
        norm, site = self.plan.merged[layer], self.plan.sites[layer]
        declared = layer_arguments(site.op)
        assert declared is not None
        own = bind_arguments(norm, fx.map_arg(norm.args, self.forward.__getitem__), {})
        name = self._member(f"fold_{layer.name}", FoldedLayer(site.op, self.plan.assigned[norm]))
        both = self._emit(f"folded_{layer.name}", "call_module", name, (arguments, own))
        weight, bias = (self._item(both, k, f"folded_{what}_{layer.name}") for k, what in enumerate(("weight", "bias")))
        return {**arguments, declared.weights[0]: weight, str(declared.bias): bias}

    def _rectified(self, node: fx.Node) -> fx.Node:
        """Return whether all holds of this run that makes relevance arrive at positive outputs alone."""
        facts = []
        for gain in self.plan.gains[node]:
            if gain in self.hooks:
                facts += self.observed[gain]
                continue
            if gain not in self.positive:
                name = f"positive_{gain.name}"
                self.positive[gain] = self._emit(name, "call_function", positive_gains, (self.forward[gain],))
            facts.append(self.positive[gain])
        return facts[0] if len(facts) == 1 else self._emit("rectified", "call_function", all_of, tuple(facts))

    def _collect(self, node: fx.Node) -> fx.Node | None:
        """Return the relevance at a node's output: the sum over all who used it, by part where it is a tuple."""
        if node in self.relevance:
            return self.relevance[node]
        batch = self.plan.graph.batch[node]
        if not isinstance(batch, BatchAxis) and node in self.plan.sites:
            parts: list[fx.Node | None] = [None] * len(batch or ())
            for user in node.users:
                if user.target is operator.getitem and user in self.relevance:
                    parts[user.args[1]] = self.relevance[user]  # type: ignore[index]
            if all(part is None for part in parts):
                return None
            self.relevance[node] = self._emit(f"relevance_{node.name}", "call_function", stack_outputs, tuple(parts))
            return self.relevance[node]
        shares = self.arriving.get(node, [])
        if not shares:
            if node not in self.wanted:
                return None
            shares = [
                self._emit(
                    "nothing",
                    "call_function",
                    _nothing,
                    (self.forward[node], self.arriving[self.plan.graph.output][0]),
                )
            ]
        total = shares[0]
        for share in shares[1:]:
            # Flows of channels, as those of negative parts, come by some ways alone.
            together = add_flows if self.signs_apart or self.concepts else add
            total = self._emit("sum", "call_function", together, (total, share))
        if len(shares) > 1 or total.name.startswith("to_"):
            total._rename(f"relevance_{node.name}")
        for hook in self.hooks.get(node, ()):
            name = self._member(f"hook_{node.name}", hook)
            step = self._emit(f"both_{name}", "call_module", name, (total,))
            total = self._item(step, 0, f"hooked_{node.name}")
            self.hooked.setdefault(node.name, []).append(self._item(step, 1, f"record_{name}"))
            self.observed.setdefault(node, []).append(self._item(step, 2, f"observed_{name}"))
        if node in self.concepts:
            total = self._part(self.concepts[node], self._whole(f"arrived_{node.name}", total))
        self.relevance[node] = total
        return total

    def _part(self, layer: ConceptLayer, flows: fx.Node) -> fx.Node:
        """Add flows of a layer's channels behind those that arrive at it."""
        name = self._member(f"channels_of_{layer.node.name}", ConceptStep(layer, self.seeds))
        gain = self.forward[layer.node] if self.plan.rules.times_input else None
        before = [self.channels[path] for path in self.parted]
        step = self._emit(f"parted_{name}", "call_module", name, (flows, self.channels[layer.path], gain, *before))
        self.parted[layer.path] = self._item(step, 1, f"chosen_{name}"), self._item(step, 2, f"share_{name}")
        return self._item(step, 0, f"relevance_and_{name}")

    def _member(self, name: str, module: nn.Module) -> str:
        """Keep a module under a name that none of the model's tensors has."""
        while name in self.members:
            name += "_"
        self.members[name] = module
        return name

    def _emit(self, name: str, op: str, target: Any, args: tuple[Any, ...], kwargs: Any = None) -> fx.Node:
        return self.graph.create_node(op, target, args, kwargs or {}, name)

    def _item(self, value: fx.Node, index: int, name: str) -> fx.Node:
        return self._emit(name, "call_function", operator.getitem, (value, index))


def _first_part(node: fx.Node) -> fx.Node:
    """Return the node that picks the first of an operation's several outputs."""
    return next(user for user in node.users if user.target is operator.getitem and user.args[1] == 0)


def _nothing(activation: Tensor, seeds: Tensor) -> Tensor:
    """Zero relevance ``(S, *activation)`` of as many seeds, where every path from the target was blocked."""
    return torch.zeros(seeds.shape[0], *activation.shape, dtype=seeds.dtype, device=seeds.device)
