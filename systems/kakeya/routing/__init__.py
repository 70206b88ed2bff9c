"""Risk routing: who may skip the ensemble, and what takes that right away again.

`decision` is the pure choice; `worm` the log that it is written to first; `canary` says who is in; `guard`
is the sequential test that watches both arms; `rollout` steps a control out, or back, by what the guard says.
"""

from holdfast.systems.kakeya.routing.canary import bucket, in_canary
from holdfast.systems.kakeya.routing.decision import Decision, Estimate, Path, Reason, RiskPolicy, decide
from holdfast.systems.kakeya.routing.guard import Guard, GuardPolicy, Verdict, observe, verdict
from holdfast.systems.kakeya.routing.rollout import Arm, Rollout, record, roll_back
from holdfast.systems.kakeya.routing.worm import BrokenLogError, Head, WormLog, verify_log

__all__ = [
    "Arm",
    "BrokenLogError",
    "Decision",
    "Estimate",
    "Guard",
    "GuardPolicy",
    "Head",
    "Path",
    "Reason",
    "RiskPolicy",
    "Rollout",
    "Verdict",
    "WormLog",
    "bucket",
    "decide",
    "in_canary",
    "observe",
    "record",
    "roll_back",
    "verdict",
    "verify_log",
]
