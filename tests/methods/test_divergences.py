"""Every method that has anchors under every divergence, as a config writes them; stationarity of (22) is the judge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import methods
from gempi_jax.contracts import Samples
from gempi_jax.runners.build import method_from_settings
from gempi_jax.runners.options import default_arguments
from gempi_jax.runners.settings import PhaseSettings

# f'(u) by hand, up to a constant that mu takes up, and f'(0).
SLOPES = {
    "kl": (np.log, -np.inf),
    "reverse_kl": (lambda u: -1 / u, -np.inf),
    "chi_squared": (lambda u: u, 0.0),
    "jensen_shannon": (lambda u: 0.5 * np.log(u / (1 + u)), -np.inf),
    "squared_hellinger": (lambda u: -0.5 / np.sqrt(u), -np.inf),
    "alpha_-0.5": (lambda u: u**-1.5 / -1.5, -np.inf),
    "alpha_3": (lambda u: u**2 / 2, 0.0),
}
NAMES = tuple(SLOPES)
# The tuple spelled out has an anchor where it has a number.
PRICES = {"gempi": {"coefficient_ref": 0.5, "coefficient_old": 0.2}}
BUDGETS = {"gempi": {"coefficient_old": 0.0, "budget_ref": 0.1, "budget_old": 0.1}}
SHAPE = (3, 8)
DEFAULTS = {name: default_arguments(factory) for name, factory in methods.METHODS.items()}
WITH_ANCHORS = sorted(name for name, args in DEFAULTS.items() if any(key.startswith("divergence") for key in args))


def build(name, **changes):
    return method_from_settings("rl", PhaseSettings(method=name, method_args={**DEFAULTS[name], **changes}))


def samples(number):
    rng = np.random.default_rng(0)
    sampler = rng.normal(-5, 1, SHAPE)
    # One anchor is the sampler itself, as pi_t is.
    ratios = np.stack([0.4 * rng.normal(size=SHAPE), np.zeros(SHAPE)])[-number:]
    mask = rng.random(SHAPE) < 0.8
    arrays = (0.5 * rng.normal(size=SHAPE), sampler, sampler + ratios)
    return Samples(*(jnp.asarray(x, jnp.float32) for x in arrays), jnp.asarray(mask)), ratios


def arguments(name):
    return sorted(key for key in DEFAULTS[name] if key.startswith("divergence"))


@pytest.mark.parametrize("name", WITH_ANCHORS)
def test_every_divergence_reaches_its_anchor(name):
    for i, _ in enumerate(NAMES):
        # A second anchor takes the next one, so that most are mixes.
        chosen = {key: NAMES[(i + j) % len(NAMES)] for j, key in enumerate(arguments(name))}
        adapts = {"temperature": ("dual", "solved")[i % 2]} if "temperature" in DEFAULTS[name] else {}
        method = build(name, **chosen, **adapts, **BUDGETS.get(name, {}))
        target = jax.eval_shape(method.e_step, method.init(), samples(len(method.needs.anchors))[0])
        for policy in method.needs.anchors:
            divergence = chosen.get(f"divergence_{policy}", chosen.get("divergence"))
            assert f"estep/{divergence}/{policy}" in target.metrics


MIXES = {
    "awr": {"divergence": "chi_squared"},
    "vmpo": {"divergence": "reverse_kl"},
    "rl_em": {"divergence": "jensen_shannon"},
    "dar": {"divergence_ref": "squared_hellinger", "divergence_old": "alpha_3"},
    "at_dar": {"divergence_ref": "kl", "divergence_old": "alpha_-0.5"},
    "dar_tr": {"divergence_ref": "chi_squared", "divergence_old": "kl"},
    "top_k_dar": {"divergence_ref": "alpha_3", "divergence_old": "jensen_shannon"},
    "gempi": {"divergence_ref": "reverse_kl", "divergence_old": "chi_squared"},
}


@pytest.mark.parametrize("name", WITH_ANCHORS)
def test_weights_are_stationary(name):
    chosen = MIXES[name]
    # Nothing is filtered or clipped here: every real sample shows the density ratio q / b.
    plain = {"temperature": "dual", "top_k_fraction": 1.0, "weight_clip": 1e6}
    plain = PRICES.get(name) or {key: plain[key] for key in plain if key in DEFAULTS[name]}
    method = build(name, **chosen, **plain)
    batch, ratios = samples(len(method.needs.anchors))
    # Small enough that compiling is all it costs.
    fast = {"xla_backend_optimization_level": 0}
    target = jax.jit(method.e_step, compiler_options=fast)(method.init(), batch)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(target))
    by_group = DEFAULTS[name].get("scope") == "group"
    for rows in range(SHAPE[0]) if by_group else [slice(None)]:
        where = np.asarray(batch.mask)[rows]
        weights = np.asarray(target.weights, np.float64)[rows][where]
        density = weights / weights.mean()
        # A - sum_j lambda_j f_j'(q / pi_j) is one number where q > 0, and no larger where q = 0.
        rest, bound = (np.asarray(batch.advantages, np.float64)[rows][where] for _ in range(2))
        for policy, ratio in zip(method.needs.anchors, ratios, strict=True):
            slope, at_zero = SLOPES[chosen.get(f"divergence_{policy}", chosen.get("divergence"))]
            coefficient = float(target.metrics[f"estep/coefficient/{policy}"].mean())
            with np.errstate(divide="ignore"):
                rest = rest - coefficient * slope(density / np.exp(ratio[rows][where]))
            bound = bound - coefficient * at_zero
        inside = density > 0
        level = np.mean(rest[inside])
        np.testing.assert_allclose(rest[inside], level, atol=2e-4)
        assert np.all(bound[~inside] <= level + 2e-4)


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_what_a_config_writes_by_default_is_the_default(name):
    assert build(name).needs == methods.METHODS[name]().needs


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("awr", {"divergence": "chi"}, r"method_args\.divergence = 'chi': .*chi_squared"),
        ("awr", {"divergence": "alpha_x"}, r"divergence = 'alpha_x': give the order as a number, e\.g\. 'alpha_0\.5'"),
        ("awr", {"divergence": 2.0}, r"divergence = '2\.0': Valid: "),
        ("dar", {"divergence": "kl"}, r"dar has no such argument; did you mean 'divergence_"),
        ("sft", {"divergence": "kl"}, r"sft has no such argument"),
    ],
)
def test_mistakes_are_named(name, changes, message):
    with pytest.raises(ValueError, match=message):
        build(name, **changes)
