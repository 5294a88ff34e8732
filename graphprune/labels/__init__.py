"""Labels: which slices of every tensor of a network exist together.

``value``
    What is known about one tensor.
``coupler``
    What the op rules report: atoms that are one, atoms that are pinned, dims that are mixed.
``algebra``
    The few operations on values that op rules are made of.
``solve``
    From the reports to classes of atoms, one vector of classes per tensor axis.
"""
