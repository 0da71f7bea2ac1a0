"""Muon, an optimiser for matrices (K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/)."""

import torch


class Muon(torch.optim.Adam):
    """Muon for matrices and convolution kernels, Adam for all other parameters.

    A matrix moves along the orthogonal matrix nearest to the Nesterov momentum of its gradient. Before each step it is
    rescaled to the Frobenius norm √n_rows, so `lr` sets the angle of the step. Before batch norm, the scale has no
    effect. A kernel is a matrix of shape (n_out, n_in · height · width); `torch.optim.Muon` does not accept kernels.

    Args:
        params: iterable of parameters, without groups.
        lr: learning rate of matrices. Adam's is a tenth of it.
        momentum: momentum of matrices, in [0, 1).
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
            state["step"] += 1  # required by Adam.load_state_dict
            buffer = state["momentum_buffer"].mul_(matrices["momentum"]).add_(p.grad)
            direction = p.grad.add(buffer, alpha=matrices["momentum"])
            p.mul_(len(p) ** 0.5 / p.norm())
            p.sub_(matrices["lr"] * orthogonal(direction.flatten(1)).view(p.shape))
            p.grad = None  # Adam skips it
        super().step()


def orthogonal(matrix, n_iterations=3):
    """Return an approximation of the nearest orthogonal matrix, with the shape and dtype of `matrix`.

    The result has the singular vectors of `matrix` and singular values from 0.5 to 1.2, except for those that
    are below 0.013 of its Frobenius norm. It is computed in float32 or wider.

    Newton-Schulz iteration x ← p x with p = a + b x xᵀ + c (x xᵀ)² and Jordan's coefficients. Each p is a polynomial in
    the first x xᵀ, so all products but the last have the size of x xᵀ (Gram Newton-Schulz, Dao AI Lab, 2026,
    https://dao-lab.ai/blog/2026/gram-newton-schulz).
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
