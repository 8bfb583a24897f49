"""METHOD's formulas as loops over Python floats, written from the paper; imports nothing of secura."""

import math

Matrix = list[list[float]]


def product(a: Matrix, b: Matrix) -> Matrix:
    return [[sum(a[i][k] * b[k][j] for k in range(len(b))) for j in range(len(b[0]))] for i in range(len(a))]


def transpose(a: Matrix) -> Matrix:
    return [[row[j] for row in a] for j in range(len(a[0]))]


def add(a: Matrix, b: Matrix) -> Matrix:
    return [[x + y for x, y in zip(row_a, row_b, strict=True)] for row_a, row_b in zip(a, b, strict=True)]


def take_columns(weight: Matrix, indices: list[int]) -> Matrix:
    return [[row[j] for j in indices] for row in weight]


def take_rows(weight: Matrix, indices: list[int]) -> Matrix:
    return [list(weight[i]) for i in indices]


def column_norms(weight: Matrix) -> list[float]:
    return [math.sqrt(sum(row[j] ** 2 for row in weight)) for j in range(len(weight[0]))]


def least_columns(weight: Matrix, count: int) -> list[int]:
    norms = column_norms(weight)
    return sorted(range(len(norms)), key=lambda j: (norms[j], j))[:count]


def inverse_importance(weight: Matrix) -> list[float]:
    squares = [norm**2 for norm in column_norms(weight)]
    inverse = [sum(squares) / square for square in squares]
    return [share / sum(inverse) for share in inverse]


def cabr_change(columns: Matrix, inner: Matrix, outer: Matrix, rows: Matrix, accumulated: Matrix) -> Matrix:
    core = add(accumulated, product(inner, outer))
    return product(product(columns, core), rows)


def cur_change(columns: Matrix, core: Matrix, rows: Matrix) -> Matrix:
    return product(product(columns, core), rows)


def low_rank_change(up: Matrix, down: Matrix, folded: list[tuple[Matrix, Matrix]]) -> Matrix:
    total = product(up, down)
    for folded_up, folded_down in folded:
        total = add(total, product(folded_up, folded_down))
    return total


def bound(reference: Matrix, tau: float, floor: float) -> Matrix:
    count = len(reference) * len(reference[0])
    rms = math.sqrt(sum(w * w for row in reference for w in row) / count)
    return [[tau * (abs(w) + floor * rms) for w in row] for row in reference]


def bounded(reference: Matrix, change: Matrix, tau: float, floor: float) -> Matrix:
    limits = bound(reference, tau, floor)
    return [
        [w + t * (2 / (1 + math.exp(-2 * d / t)) - 1) for w, d, t in zip(row_w, row_d, row_t, strict=True)]
        for row_w, row_d, row_t in zip(reference, change, limits, strict=True)
    ]


def length(row: list[float]) -> float:
    return math.sqrt(sum(value * value for value in row))


def row_bounded(reference: Matrix, change: Matrix, tau: float) -> Matrix:
    moved = []
    for row_w, row_d in zip(reference, change, strict=True):
        limit, rho = tau * length(row_w), length(row_d)
        if rho == 0 or limit == 0:
            moved.append(list(row_w))
            continue
        gain = limit / rho * math.tanh(rho / limit)
        moved.append([w + gain * d for w, d in zip(row_w, row_d, strict=True)])
    return moved


def paper_restraint(reference: Matrix, change: Matrix) -> Matrix:
    ratios = [
        [abs(d) / (abs(w) + 1e-8) for w, d in zip(row_w, row_d, strict=True)]
        for row_w, row_d in zip(reference, change, strict=True)
    ]
    largest = max(max(row) for row in ratios)
    if largest == 0:
        return [[2.0 for _ in row] for row in ratios]
    return [[2 - 1 / (1 + math.exp(-6 * (m / largest - 0.5))) for m in row] for row in ratios]


def paper(reference: Matrix, change: Matrix) -> Matrix:
    restraint = paper_restraint(reference, change)
    return [
        [(2 * w + d) / res for w, d, res in zip(row_w, row_d, row_r, strict=True)]
        for row_w, row_d, row_r in zip(reference, change, restraint, strict=True)
    ]


def released(reference_output: Matrix, output_change: Matrix) -> Matrix:
    ratios = [
        [abs(d / (y + 1e-8)) for y, d in zip(row_y, row_d, strict=True)]
        for row_y, row_d in zip(reference_output, output_change, strict=True)
    ]
    all_zero = all(m == 0 for row in ratios for m in row)
    return [
        [
            (2 * y + d) / (2.0 if all_zero else 2 - 1 / (1 + math.exp(-6 * m)))
            for y, d, m in zip(row_y, row_d, row_m, strict=True)
        ]
        for row_y, row_d, row_m in zip(reference_output, output_change, ratios, strict=True)
    ]


def leading_block(weight: Matrix, row_count: int, column_count: int) -> Matrix:
    width = len(weight[0])
    return [[weight[i][j % width] for j in range(column_count)] for i in range(row_count)]


def slope_by_differences(function, point: float, step: float = 1e-6) -> float:
    return (function(point + step) - function(point - step)) / (2 * step)
