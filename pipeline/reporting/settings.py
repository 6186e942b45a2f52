"""Settings of the TensorBoard summaries. Standard library only."""

import dataclasses
import re

from pipeline import errors, fields


@dataclasses.dataclass(frozen=True)
class TensorBoard:
    """What is recorded for TensorBoard."""

    summary_every: int = fields.step_count(
        0,
        "Steps between the values of W, b and loss in TensorBoard. By default (0), runs of up to "
        "10,000 steps record every step, and longer runs evenly spaced steps.",
        may_change=True,
    )
    references: bool = fields.output_only(
        True,
        "Show what training could reach, as flat lines in TensorBoard: the least-squares solution, "
        "and the true values of synthetic data.",
    )
    profile_steps: str = fields.output_only(
        "", "Profile from a first to a last step, such as 100,200."
    )

    def _check(self) -> None:
        steps = re.fullmatch(r"(\d+),(\d+)", self.profile_steps)
        errors.require(
            not self.profile_steps or (steps and int(steps[1]) < int(steps[2])),
            "--profile_steps must be two steps, the first less than the last, such as 100,200; "
            f"received {self.profile_steps!r}",
        )

    @property
    def profiled(self) -> tuple[int, int] | None:
        """The first and the last step to profile."""
        first, _, last = self.profile_steps.partition(",")
        return (int(first), int(last)) if last else None
