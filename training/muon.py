"""Muon, an optimiser for matrices (K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/)."""

import torch


class Muon(torch.optim.Adam):
    """Muon for matrices and the kernels of convolutions, Adam for all other parameters.

    A matrix takes a step along the orthogonal matrix that is nearest to its gradient's Nesterov momentum. It keeps
    the length, the Frobenius norm √n_rows, so that `lr` says how far a step turns it: before batch norm, length
    changes nothing. A kernel is a matrix of (n_out, n_in · height · width). `torch.optim.Muon` takes no kernels.

    Args:
        params: an iterable of parameters, without groups.
        lr: of matrices; the other parameters have a tenth of it.
        momentum: of matrices, at least 0, below 1.
    """

    def __init__(self, params, lr, momentum):
        params = list(params)
        matrices = {"params": [p for p in params if p.ndim > 1], "momentum": momentum}
        others = {"params": [p for p in params if p.ndim <= 1], "lr": lr / 10}
        super().__init__([matrices, others], lr=lr, betas=(0.9, 0.99))

    @torch.no_grad()
    def step(self):
        matrices = self.param_groups[0]
        for p in matrices["params"]:
            state = self.state[p]
            if not state:
                state |= {"step": torch.zeros(()), "momentum_buffer": torch.zeros_like(p)}
            state["step"] += 1  # which Adam looks for in every state that it loads
            buffer = state["momentum_buffer"].mul_(matrices["momentum"]).add_(p.grad)
            direction = p.grad.add(buffer, alpha=matrices["momentum"])
            p.mul_(len(p) ** 0.5 / p.norm())
            p.sub_(matrices["lr"] * orthogonal(direction.flatten(1)).view(p.shape))
            p.grad = None  # Adam steps along what is left
        super().step()


def orthogonal(matrix, n_iterations=3):
    """Return roughly the orthogonal matrix nearest to a matrix: its singular vectors, with values from 0.5 to 1.2.

    It has the matrix's shape and, computed in float32 at least, its dtype.

    After three iterations, values that were below 0.013 of the matrix's Frobenius norm are still below 0.5.

    By Newton and Schulz's iteration, x ← p x with p = a + b x xᵀ + c (x xᵀ)² and Jordan's coefficients. Each p is a
    polynomial in the first x xᵀ, so that all are small and square and x itself is multiplied once (Gram Newton-Schulz,
    Dao AI Lab, 2026, https://dao-lab.ai/blog/2026/gram-newton-schulz). In float32 at least: on a CPU that does not
    multiply in bfloat16, the usual choice on GPUs, that takes 28 times as long.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if is_tall else matrix).to(torch.promote_types(matrix.dtype, torch.float32))
    x = x / x.norm().clamp(min=1e-7)
    gram = x @ x.T
    identity = product = torch.eye(len(gram), dtype=x.dtype, device=x.device)
    for _ in range(n_iterations):
        factor = 3.4445 * identity - 4.7750 * gram + 2.0315 * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return (x.T if is_tall else x).to(matrix.dtype)
