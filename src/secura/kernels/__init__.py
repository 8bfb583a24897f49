"""What a GPU computes in one pass where torch takes many: kernels of the norms, and where they are used.

`fused_norm` chooses; `bounded` holds the kernels and needs Triton, which torch brings along where it is made for GPUs.
`secura.numerics` has the formulas, is handed what is chosen here, and knows nothing of Triton.
"""
