"""Krylov bases in one piece and in several: the same space, and no more memory than is used."""

import math

import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.curvature import apply_function, krylov, top_eigenpairs
from gdflows.curvature.krylov import PIECE, Krylov
from gdflows.curvature.units import Operator
from gdflows.experiments.costs import peak

f64 = torch.float64


def matrix(n, dtype=f64):
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(n, n, generator=draw, dtype=dtype)
    return (a + a.T) / 2, torch.randn(n, generator=draw, dtype=dtype)


@pytest.fixture
def in_pieces(monkeypatch):
    monkeypatch.setattr(krylov, "SMALL", 0)


@pytest.mark.parametrize("dtype", [f64, torch.complex128])
def test_basis_in_pieces_is_orthonormal_and_holds_the_matrix(in_pieces, dtype):
    """More than one piece, the last one short; two starts where the matrix is symmetric."""
    a, v = matrix(3 * PIECE + 2, dtype)
    space = Krylov(Operator(lambda w: a @ w), v)
    for m in range(space.dim):
        if m == 5 and dtype == f64:
            assert space.start(torch.ones(space.dim, dtype=dtype))
        space.grow(0)
    assert space.full and space.invariant
    basis = space.combine(torch.eye(space.dim, dtype=dtype))
    torch.testing.assert_close(basis @ basis.mH, torch.eye(space.dim, dtype=dtype))
    small = torch.from_numpy(space.small)
    torch.testing.assert_close(basis.conj() @ a @ basis.T, small, rtol=0, atol=1e-12)
    torch.testing.assert_close(space.inner(v), basis.conj() @ v)
    torch.testing.assert_close(space.combine(v), v @ basis)


def test_images_and_functions_from_pieces(in_pieces):
    a, v = matrix(40)
    space = Krylov(Operator(lambda w: a @ w), v)
    for _ in range(11):
        space.grow()
    coefficients = np.random.default_rng(0).normal(size=(11, 3))
    rows = space.combine(torch.from_numpy(coefficients.T.copy()))
    torch.testing.assert_close(space.images(coefficients), rows @ a)

    E = gf.Objective(lambda t: 0.5 * t @ (a.to(t.dtype) @ t), dim=len(a))
    values, vectors = torch.linalg.eigh(a)
    for phi in (np.exp, lambda x: np.exp(1j * x)):
        exact = vectors.to(torch.complex128) @ (
            torch.from_numpy(phi(values.numpy())).to(torch.complex128) * (vectors.T @ v)
        )
        found = apply_function(E, v, phi, v, tol=1e-10, method="krylov")
        torch.testing.assert_close(found.to(exact.dtype), exact, rtol=0, atol=1e-8)


def test_a_search_in_pieces_finds_what_one_in_one_piece_finds(monkeypatch):
    a, v = matrix(300)
    E = gf.Objective(lambda t: 0.5 * t @ (a.to(t.dtype) @ t), dim=len(a))
    one = top_eigenpairs(E, v, 3, tol=1e-8)
    monkeypatch.setattr(krylov, "SMALL", 0)
    several = top_eigenpairs(E, v, 3, tol=1e-8)
    assert several.hvps == one.hvps > 4 * PIECE
    torch.testing.assert_close(several.values, one.values, rtol=1e-12, atol=0)
    torch.testing.assert_close(several.values, torch.linalg.eigvalsh(a).flip(0)[:3])


def test_no_more_is_held_than_is_used():
    """A large basis: its vectors, at most three beyond, and those that every step needs."""
    dim = 2**17
    values = torch.linspace(0, 1, dim) ** 8
    held = {}
    for m in (3, 18, 33):
        space = []

        def search(m=m, space=space):
            space += [Krylov(Operator(lambda w: values * w), torch.ones(dim))]
            for _ in range(m):
                space[0].grow()

        most, after = peak(search)
        pieces = PIECE * math.ceil(m / PIECE)
        assert after / 4 / dim == pytest.approx(pieces + 1, abs=0.01)  # and the next direction
        held[m] = most / 4 / dim - pieces
    assert held[33] <= held[3] + 0.01 < 5.02
