"""Networks of another kind than the plain one: what holds for any network is checked, the rest is for a person.

Question 2 asks students to change their MLP, and some hand in what worked best. A kind is told by the layers that a
batch goes through, as PyTorch knows them, or by an output of log-probabilities; never by a result that differs.
"""

import numpy as np

from grading.check import Outcome

KINDS = (("batch norm", ("Norm", "BN")), ("dropout", ("Dropout",)), ("log-probabilities", ("LogSoftmax",)))
ACTIVATIONS = {
    "ReLU6", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Tanh", "Sigmoid", "Softplus", "Softsign", "PReLU", "RReLU",
    "Hardtanh", "Hardswish", "Hardsigmoid", "LogSigmoid", "Softshrink", "Hardshrink", "Tanhshrink", "GLU",
}  # fmt: skip


def ask_kind(g, module, name, args, arrays):
    """Return the `Answer` of `network_kind`."""
    return g.ask("network_kind", {"module": module, "name": name, "args": args}, arrays)


def differences(answer, n_linear):
    """Return what a network has that the plain one, of `n_linear` linear layers, has not, in words: a list."""
    used = bytes(answer.arrays.get("used", np.zeros(0)).astype(np.uint8)).decode(errors="replace").split()
    found = [text for text, words in KINDS if any(word in name for name in used for word in words)]
    found += [f"another activation ({name})" for name in sorted(ACTIVATIONS & set(used))]
    out = answer.arrays.get("out", np.zeros((0, 0)))
    if "log-probabilities" not in found and out.size and np.allclose(np.exp(out).sum(axis=-1), 1, atol=1e-4):
        found.append("log-probabilities")
    if used.count("Linear") > n_linear:
        found.append(f"{used.count('Linear')} linear layers, not {n_linear}")
    return found


def undecided(outcome, found):
    """Return the `Outcome` of what cannot be compared with the plain network, of what was found when it was."""
    why = f"not decided: the network has {', '.join(found)}, and is not the plain one; a person has to look"
    hint = f"{why} ({outcome.hint})" if outcome.mistake else why
    return Outcome(
        False, outcome.called, outcome.got, outcome.expected, hint, is_decided=False, mistake=outcome.mistake
    )
