"""Error feedback and the search after it against what they are by definition."""

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch

from l2fmt.optimize.second_order import _kernels
from l2fmt.optimize.second_order.curvature import Curvature
from l2fmt.optimize.second_order.factor import Factor
from l2fmt.optimize.second_order.rounding import CodeCosts, Rounder, Rounding
from tests.optimize.second_order.factors import natural

LIMIT = 12
NO_CLASSES = np.zeros(0, np.uint8)


def correlated(random: np.random.Generator, groups: int, n: int) -> torch.Tensor:
    inputs = random.normal(size=(groups, 200, n)) @ random.normal(size=(groups, n, n)) + 1
    return torch.from_numpy(inputs.transpose(0, 2, 1) @ inputs / 200)


def problem(
    rows: int = 6, columns: int = 20, groups: int = 1, seed: int = 0, across_rows: bool = False
) -> tuple[np.ndarray, Curvature]:
    """Weights, and the curvature of correlated inputs, perhaps of correlated outputs too."""
    random = np.random.default_rng(seed)
    hessian = correlated(random, groups, columns)
    sensitivity = torch.from_numpy(random.uniform(0.5, 2, rows * groups))
    if across_rows:
        sensitivity = correlated(random, groups, rows)
    return random.normal(size=(rows * groups, columns)).astype(np.float32), Curvature(hessian, sensitivity)


def free(weights: int) -> CodeCosts:
    return CodeCosts.none(LIMIT, weights)


def laplace(weights: int, slope: float) -> CodeCosts:
    bits = (0.7 + 1.5 * np.abs(np.arange(-LIMIT, LIMIT + 1))).astype(np.float32)[None]
    return CodeCosts(bits, np.zeros(weights, np.uint8), slope)


def objective(rounder: Rounder, codes: np.ndarray, step: float, costs: CodeCosts) -> float:
    error = (codes.reshape(rounder.weights.shape) * step - rounder.weights).astype(np.float64)
    rows, columns = natural(rounder.rows), natural(rounder.columns)
    distance = np.einsum("gri,gij,gsj,gsr->", error, columns, error, rows, optimize=True)
    return float(distance) + costs.slope * float(costs.bits[0, codes + LIMIT].sum())


@pytest.mark.parametrize("across_rows", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("columns", [5, 20, 110])
def test_feedback_is_sequential_elimination(columns: int, groups: int, across_rows: bool) -> None:
    """Each error is made up for by the best change of the weights after it, in all rows, as solving for it says."""
    rows = 3
    weights, curvature = problem(rows, columns, groups, across_rows=across_rows)
    rounder, step = Rounder.of(weights, curvature, Rounding(damping=0.05, row_damping=0.05)), 0.4
    costs = free(weights.size)
    found = rounder.round(step, costs, 0).reshape(groups, rows, columns)
    by_row, by_column = natural(rounder.rows), natural(rounder.columns)
    for group, given in enumerate(found):
        turns = np.ix_(
            rounder.rows.places(rows)[0 if not across_rows else group], rounder.columns.places(columns)[group]
        )
        codes = given[turns].reshape(-1)
        in_turn = np.ix_(*[turns[0].reshape(-1)] * 2), np.ix_(*[turns[1].reshape(-1)] * 2)
        hessian = np.kron(by_row[group][in_turn[0]], by_column[group][in_turn[1]])
        left = weights.reshape(found.shape)[group][turns].reshape(-1).astype(np.float64) / step
        for i in range(len(left)):
            target = left[i]
            if abs(abs(target - np.floor(target)) - 0.5) > 1e-3:  # where float32 and float64 must agree
                assert codes[i] == np.clip(np.rint(target), -LIMIT, LIMIT)
            error = codes[i] - target
            if i + 1 < len(left):
                left[i + 1 :] -= np.linalg.solve(hessian[i + 1 :, i + 1 :], hessian[i + 1 :, i] * error)
            left[i] = codes[i]


@pytest.mark.parametrize("across_rows", [False, True])
def test_feedback_beats_plain_rounding_and_search_beats_feedback(across_rows: bool) -> None:
    weights, curvature = problem(16, 40, across_rows=across_rows)
    rounder, step = Rounder.of(weights, curvature, Rounding(damping=0.01)), 0.5
    costs = free(weights.size)
    plain = np.rint(weights / step).astype(np.int32)
    fed = rounder.round(step, costs, 0)
    searched = rounder.round(step, costs, 5, 4)
    errors = [objective(rounder, codes, step, costs) for codes in (plain, fed, searched)]
    assert errors[1] < 0.5 * errors[0] and errors[2] < errors[1]


def test_enough_paths_find_the_best_codes_of_most_rows() -> None:
    """With rate, where all codes of a row can be tried; a path never takes a code beyond those next to its weight."""
    missed = []
    for seed in range(20):
        weights, curvature = problem(1, 4, seed=seed)
        rounder, step, costs = Rounder.of(weights, curvature, Rounding(damping=0.01)), 0.5, laplace(weights.size, 0.3)
        around = np.rint(weights[0] / step).astype(int)
        all_codes = product(*[range(max(c - 3, -LIMIT), min(c + 3, LIMIT) + 1) for c in around])
        least = min(objective(rounder, np.array([codes]), step, costs) for codes in all_codes)
        greedy, found = (objective(rounder, rounder.round(step, costs, 0, paths), step, costs) for paths in (1, 300))
        assert least * (1 - 1e-5) <= found <= greedy
        missed.append(found / least - 1)
    assert np.mean(np.array(missed) < 1e-5) > 0.7 and max(missed) < 0.1


@pytest.mark.parametrize("across_rows", [False, True])
@pytest.mark.parametrize("columns", [40, 210])  # 210: more than one block
def test_more_paths_come_nearer(columns: int, across_rows: bool) -> None:
    weights, curvature = problem(16, columns, groups=2, across_rows=across_rows)
    rounder = Rounder.of(weights, curvature, Rounding(damping=0.01, row_damping=0.5))
    costs = laplace(weights.size, 0.05 * rounder.level)
    found = [objective(rounder, rounder.round(0.5, costs, 0, paths), 0.5, costs) for paths in (1, 4, 16)]
    assert found[1] < 0.99 * found[0] and found[2] < found[1]


@pytest.mark.parametrize("n", [7, 60])
def test_an_order_changes_no_curvature(n: int) -> None:
    whole = correlated(np.random.default_rng(1), 2, n)
    factor = Factor.of(whole, 0.01, 0.01)
    damped = torch.from_numpy(natural(factor))
    assert torch.allclose(damped - whole, 0.01 * whole.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(n))
    assert factor.order is not None and np.array_equal(np.sort(factor.order), np.tile(np.arange(n), (2, 1)))
    assert np.array_equal(factor.as_given(factor.order.astype(float)), np.tile(np.arange(n), (2, 1)))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    plain = (torch.linalg.cholesky(inverse, upper=True).diagonal(dim1=1, dim2=2) ** -2).numpy()
    assert np.log(factor.pivots).sum(1) == pytest.approx(np.log(plain).sum(1))
    as_they_come = Factor.of(whole, 0.01, 0.01, by_importance=False)
    assert as_they_come.order is None and as_they_come.pivots == pytest.approx(plain)
    scales = np.random.default_rng(2).uniform(0.5, 2, (2, n))
    scaled = factor.scaled(scales)
    assert natural(scaled) == pytest.approx(natural(factor) * scales[:, :, None] * scales[:, None])
    assert scaled.feedback is not None
    assert np.linalg.inv(scaled.matrix) == pytest.approx(scaled.feedback.transpose(0, 2, 1) @ scaled.feedback)


def test_what_counts_most_comes_first_and_what_is_close_to_it_next() -> None:
    """Pairs of columns that are much alike, the halves of a pair far apart and the pairs of different weight."""
    pairs = 20
    weights = np.random.default_rng(0).permutation(pairs) + 1.0
    whole = np.eye(2 * pairs)
    whole[np.arange(pairs), np.arange(pairs) + pairs] = whole[np.arange(pairs) + pairs, np.arange(pairs)] = 0.9
    sizes = np.tile(weights, 2)
    factor = Factor.of(torch.from_numpy(whole * sizes[:, None] * sizes)[None], 1e-6, 1e-6)
    assert factor.order is not None
    couples = factor.order[0].reshape(pairs, 2) % pairs
    assert np.array_equal(couples[:, 0], couples[:, 1])
    assert np.array_equal(couples[:, 0], np.argsort(-weights))


@pytest.mark.parametrize("columns", [1, 9, 40])
def test_what_has_nothing_in_common_is_ordered_by_what_it_counts(columns: int) -> None:
    diagonal = torch.diag_embed(torch.linspace(1, 2, columns, dtype=torch.float64))[None]
    factor = Factor.of(diagonal, 0.01, 0.01)
    assert factor.order is not None and np.array_equal(factor.order[0], np.arange(columns)[::-1])


def test_what_rows_make_up_for_is_worth_it() -> None:
    weights, curvature = problem(16, 40, across_rows=True)
    whole, step = Rounder.of(weights, curvature, Rounding(damping=0.01, row_damping=0.01)), 0.5
    alone = Rounder.of(weights, curvature.by_row(), Rounding(damping=0.01, row_damping=0.01))
    costs = free(weights.size)
    for passes in (0, 3):
        errors = [objective(whole, r.round(step, costs, passes), step, costs) for r in (alone, whole)]
        assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("across_rows", [False, True])
def test_search_ends_where_no_change_of_one_or_two_codes_of_a_row_helps(across_rows: bool) -> None:
    weights, curvature = problem(6, 8, across_rows=across_rows)
    rounder, step, slope = Rounder.of(weights, curvature, Rounding(damping=0.01, row_damping=0.1)), 0.5, 0.05
    costs = laplace(weights.size, slope)
    codes = rounder.round(step, costs, 100, 500)
    least = objective(rounder, codes, step, costs)
    for r in range(codes.shape[0]):
        for i, j in product(range(codes.shape[1]), repeat=2):
            for first, second in product((-1, 0, 1), repeat=2):
                other = codes.copy()
                other[r, i] += first
                other[r, j] += second
                assert objective(rounder, other, step, costs) > least - 1e-4 * abs(least)


@pytest.mark.parametrize("across_rows", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("columns", [20, 97, 250])  # one block, and several with edges in different places
def test_no_pass_goes_farther_away(columns: int, groups: int, across_rows: bool) -> None:
    weights, curvature = problem(12, columns, groups, across_rows=across_rows)
    rounder = Rounder.of(weights, curvature, Rounding(damping=0.01, row_damping=0.5))
    costs = laplace(weights.size, 0.05 * rounder.level)
    found = [objective(rounder, rounder.round(0.5, costs, passes, 2), 0.5, costs) for passes in range(4)]
    if across_rows:  # rows by themselves may be as good as this search can make them
        assert found[1] < found[0]
    assert all(after <= before * (1 + 1e-5) for before, after in pairwise(found))


@pytest.mark.parametrize(("changed", "expected"), [(0, 1), (2, 1), (3, 4), (100, 4)])
def test_a_pass_that_changes_less_than_a_thousandth_is_the_last(
    changed: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, curvature = problem(24, 96)  # 2,304 codes
    rounder = Rounder.of(weights, curvature, Rounding())
    passes: list[int] = []

    def search_again(*_given: Any) -> int:
        passes.append(changed)
        return changed

    monkeypatch.setattr(_kernels, "search_again", search_again)
    rounder.round(0.5, free(weights.size), 4)
    assert len(passes) == expected


def test_a_bit_that_costs_more_leaves_fewer_of_them() -> None:
    weights, curvature = problem(16, 40)
    rounder = Rounder.of(weights, curvature, Rounding(damping=0.01))
    spent = []
    for slope in (0.0, 1.0, 10.0, 100.0):
        costs = laplace(weights.size, slope)
        codes = rounder.round(0.5, costs, 2)
        spent.append(float(costs.bits[0, codes + LIMIT].sum()))
    assert spent == sorted(spent, reverse=True) and spent[0] > 1.5 * spent[-1]


def test_diagonal_curvature_rounds_each_weight_alone() -> None:
    weights, _ = problem(10, 7)
    curvature = Curvature(torch.ones(1, 7, dtype=torch.float64), torch.ones(10, dtype=torch.float64))
    rounder = Rounder.of(weights, curvature, Rounding())
    codes = rounder.round(0.3, free(weights.size), 3)
    assert np.array_equal(codes, np.rint(weights * np.float32(1 / 0.3)))


@pytest.mark.parametrize("paths", [1, 4])
def test_dead_inputs_and_rows_are_no_obstacle(paths: int) -> None:
    weights, curvature = problem(6, 10)
    curvature.hessian[:, 3] = curvature.hessian[:, :, 3] = 0
    curvature.sensitivity[2] = 0
    rounder = Rounder.of(weights, curvature, Rounding(damping=0.01, row_damping=0.01))
    codes = rounder.round(0.5, laplace(weights.size, 1.0), 2, paths)
    assert np.abs(codes[2]).sum() == 0, "a row that changes nothing is pruned"
    assert np.abs(codes[:, 3]).sum() == 0, "so is an input that is never there"
    assert np.abs(codes).sum() > 0
    nothing = Curvature(torch.zeros(1, 10, 10, dtype=torch.float64), torch.zeros(6, dtype=torch.float64))
    empty = Rounder.of(weights, nothing, Rounding(damping=0.01, row_damping=0.01)).round(
        0.5, free(weights.size), 2, paths
    )
    assert np.abs(empty).max() <= LIMIT


@pytest.mark.parametrize("paths", [1, 4])
def test_codes_stay_within_their_limit(paths: int) -> None:
    weights, curvature = problem(6, 30)
    rounder = Rounder.of(weights * 1000, curvature, Rounding(damping=0.01))
    codes = rounder.round(0.5, free(weights.size), 3, paths)
    assert np.abs(codes).max() == LIMIT


@pytest.mark.parametrize("paths", [1, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_no_number_makes_no_code_beyond_the_limit(
    monkeypatch: pytest.MonkeyPatch, value: float, paths: int
) -> None:
    weights, curvature = problem(4, 30)
    Rounder.of(weights, curvature, Rounding(damping=0.01)).round(0.5, laplace(weights.size, 1.0), 3, paths)  # compiles
    weights[1, 3] = value
    given = np.empty

    def full_of_others(*arguments: Any) -> np.ndarray:
        array = given(*arguments)
        array.fill(1000)
        return array

    monkeypatch.setattr(np, "empty", full_of_others)
    with np.errstate(all="ignore"):
        rounder = Rounder.of(weights, curvature, Rounding(damping=0.01))
        codes = rounder.round(0.5, laplace(weights.size, 1.0), 3, paths)
    assert np.abs(codes).max() <= LIMIT


def test_kernels_are_compiled_once() -> None:
    weights, curvature = problem(6, 30)
    Rounder.of(weights, curvature, Rounding(damping=0.01)).round(0.5, free(weights.size), 3, 4)
    assert len(_kernels.search_again.signatures) == 1  # compiled once for all of these
