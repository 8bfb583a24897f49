"""The equations: tensors in, tensors out, PyTorch alone.

    W' = norm(W_ref, D)     D = change(W0; trained factors)     W_ref = reference(W0, folds)

Three independent choices, one file each: `change`, `s_magnorm`, `reference`. Beside them:
`cur_selection` (which columns and rows C and R are), `starts` (what A begins as) and
`constrained_linear` (the layer's product with W', without keeping W' in memory).
"""
