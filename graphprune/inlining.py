"""Inlining: regions that torch.export wraps in subgraphs become part of the graph itself.

A ``with torch.no_grad()`` or ``with torch.autocast(enabled=False)`` in a forward arrives as one
call of a higher-order op. Neither changes what an evaluated network computes, so the region's ops
are put in its place; gradients then also flow through a former ``no_grad`` region. Regions that do
compute something else (autocast switched on) stay, and pin what enters them.
"""

from __future__ import annotations

import operator

from torch import fx

_ASSERTION = "aten::_assert_tensor_metadata"


def inline_regions(module: fx.GraphModule) -> None:
    """Inline all regions, in the graph, innermost ones included; drop dtype assertions."""
    graph = module.graph
    pending = True
    while pending:
        regions = [node for node in graph.nodes if _subgraph_place(node) is not None]
        for node in regions:
            _inline(module, node)
        pending = bool(regions)
    for node in list(graph.nodes):
        schema = getattr(node.target, "_schema", None)
        # They would refuse the same network in another precision.
        if schema is not None and schema.name == _ASSERTION and not node.users:
            graph.erase_node(node)
    for node in list(graph.nodes):
        made = _region_of(module, node)
        if made is not None and not node.users:
            graph.erase_node(node)
    module.recompile()


def _subgraph_place(node: fx.Node) -> int | None:
    """Return where a wrapper that may be inlined has its subgraph among its arguments."""
    name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
    if name == "wrap_with_set_grad_enabled":
        return 1
    if name == "wrap_with_autocast" and node.args[2] is False:
        return 4
    return None


def _region_of(module: fx.GraphModule, node: fx.Node) -> fx.GraphModule | None:
    if node.op != "get_attr":
        return None
    found = getattr(module, str(node.target), None) if "." not in str(node.target) else None
    return found if isinstance(found, fx.GraphModule) else None


def _inline(module: fx.GraphModule, node: fx.Node) -> None:
    place = _subgraph_place(node)
    assert place is not None
    getter = node.args[place]
    assert isinstance(getter, fx.Node)
    region = module.get_submodule(str(getter.target))
    assert isinstance(region, fx.GraphModule)
    inputs = iter(node.args[place + 1 :])
    copied: dict[fx.Node, fx.Node] = {}
    results: tuple[fx.Node, ...] = ()
    with module.graph.inserting_before(node):
        for inner in region.graph.nodes:
            if inner.op == "placeholder":
                given = next(inputs)
                assert isinstance(given, fx.Node)
                copied[inner] = given
            elif inner.op == "output":
                results = tuple(copied[result] for result in inner.all_input_nodes)
            else:
                copied[inner] = module.graph.node_copy(inner, copied.__getitem__)
    _replace_results(module, node, results)


def _replace_results(module: fx.GraphModule, node: fx.Node, results: tuple[fx.Node, ...]) -> None:
    for user in list(node.users):
        assert user.target is operator.getitem
        index = user.args[1]
        assert isinstance(index, int)
        user.replace_all_uses_with(results[index])
        module.graph.erase_node(user)
    module.graph.erase_node(node)
