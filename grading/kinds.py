"""Networks of another kind than the plain one: what holds for any network is checked, the rest is for a person.

Question 2 asks students to change their MLP, and some hand in what worked best. A kind is told by the functions of
PyTorch by which the logits come, or by an output of log-probabilities; never by a result that differs. What is called
and thrown away does not count. What is called to no effect, as 0 times an activation, does: what is compared with the
plain network counts as 0 all the same, and what passes as holding for any kind names the function.
"""

import dataclasses
import itertools
import re

import numpy as np

KINDS = {
    "normalisation": r".*norm|normalize|mean|var|std|var_mean|std_mean",
    "dropout": r".*dropout\d?d?|bernoulli|rand.*",
    "another activation": r"[cgs]?elu|glu|silu|mish|[pr]relu|relu6|(hard)?tanh|(hard|log_?)?sigmoid|special_expit|"
    r"hardswish|soft(plus|sign)|(soft|hard|tanh)shrink|erf|sin|cos",
    "log-probabilities": r"log_softmax",
}  # fmt: skip
LINEAR = r"linear|matmul|mm|addmm|einsum"


def differences(answer, n_linear):
    """Return what a network has that the plain one, of `n_linear` linear layers, has not, in words: a list.

    Args:
        answer: to `mlp_kind`.
    """
    used = bytes(answer.arrays.get("used", np.zeros(0)).astype(np.uint8)).decode(errors="replace").split()
    found = [
        f"{kind} ({name})" for kind, names in KINDS.items() for name in sorted(set(used)) if re.fullmatch(names, name)
    ]
    out = answer.arrays.get("out", np.zeros((0, 0)))
    if "log_softmax" not in used and out.size and np.allclose(np.exp(out).sum(axis=-1), 1, atol=1e-4):
        found.append("log-probabilities")
    n_used = sum(re.fullmatch(LINEAR, name) is not None for name in used)
    if n_used > n_linear:
        found.append(f"{n_used} linear layers, not {n_linear}")
    return found


def has_layers(answer, sizes):
    """Return whether a network has matrices of the shapes that layers of these sizes have, either way round.

    Args:
        answer: to `mlp_kind`.
        sizes: of input, hidden layers and output.
    """
    matrices = {tuple(sorted(shape)) for shape in answer.arrays.get("matrices", np.zeros((0, 2))).tolist()}
    return all(tuple(sorted(pair)) in matrices for pair in itertools.pairwise(sizes))


def undecided(outcome, found):
    """Return the `Outcome` of what cannot be compared with the plain network, of what was found when it was."""
    why = f"not decided: the network has {', '.join(found)}, and is not the plain one; a person has to look"
    hint = f"{why} ({outcome.hint})" if outcome.mistake else why
    return dataclasses.replace(outcome, hint=hint, is_decided=False)
