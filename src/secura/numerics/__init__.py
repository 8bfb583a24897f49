"""The equations: tensors in, tensors out, PyTorch alone.

    W' = norm(W_ref, D)     D = change(W0; trained factors)     W_ref = reference(W0, folds)

Three independent choices, one file each: `change`, `s_magnorm`, `reference`. Beside them:
`row_bound` (a norm that acts on thin factors, with its own reference), `cur_selection` (which
columns and rows C and R are), `starts` (what A begins as) and `constrained_linear` (the layer's
product with W', without keeping W' in memory).
"""
