"""What a check of a probe found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from taster.stats.confident_learning import Suspect
from taster.stats.detection_bound import DetectionBound

_SHOWN = 8
"""Indices that a sentence names at most."""

_SMALL = 10
"""Multiple of the tolerance (or of one point) from which on a bound says that a probe is small, as when a guard is
made."""


@dataclass(frozen=True)
class ProbeReport:
    """What `taster.probe.check` found. Nothing has been changed; indices are those of the samples in the probe.

    Attributes:
        samples: how many there are.
        task: what counts; empty without a model.
        nonfinite: samples with NaN or infinity, of which nothing else is said.
        value_range: the least and the greatest value of floating-point samples; None where there are none.
        wanted_range: the range that they should lie in, where that is known.
        duplicates: groups of samples that are the same.
        contradictions: those of them whose labels differ.
        in_training: samples that are in the training data as well.
        class_counts: samples by class, where samples have one each.
        missing: classes without a sample.
        rare: classes with fewer than `min_per_class` samples.
        suspects: samples whose label looks wrong, the surest first.
        quality: the mean of each quantity that a guard would measure, of the present model.
        words: what each quantity is called.
        bound: what a guard can detect with so many samples, over a thousand checks; None where samples have no class.
        tolerance: that it was computed for, in points.
    """

    samples: int
    task: str = ""
    nonfinite: Sequence[int] = ()
    value_range: tuple[float, float] | None = None
    wanted_range: tuple[float, float] | None = None
    duplicates: Sequence[Sequence[int]] = ()
    contradictions: Sequence[Sequence[int]] = ()
    in_training: Sequence[int] = ()
    class_counts: Mapping[int, int] = field(default_factory=dict)
    missing: Sequence[int] = ()
    rare: Sequence[int] = ()
    suspects: Sequence[Suspect] = ()
    quality: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    bound: DetectionBound | None = None
    tolerance: float = 1.0

    @property
    def out_of_range(self) -> bool:
        """Whether values lie outside the range that they should lie in."""
        if self.value_range is None or self.wanted_range is None:
            return False
        return self.value_range[0] < self.wanted_range[0] or self.value_range[1] > self.wanted_range[1]

    @property
    def small(self) -> bool:
        """Whether the probe is small for its tolerance."""
        return self.bound is not None and self.bound.max_accuracy_drop > _SMALL * max(self.tolerance, 1.0)

    @property
    def findings(self) -> list[str]:
        """A sentence for each thing that should not be so; none for a probe without fault."""
        found = []
        if self.nonfinite:
            found.append(f"NaN or infinity in {_indices(self.nonfinite)}: no guard takes them")
        if self.out_of_range:
            assert self.value_range is not None
            assert self.wanted_range is not None
            low, high = self.value_range
            found.append(
                f"values from {low:g} to {high:g}, outside {self.wanted_range[0]:g} to {self.wanted_range[1]:g}: scale "
                "them as the training batches"
            )
        if self.contradictions:
            found.append(f"the same sample with several labels: {_groups(self.contradictions)}")
        if self.duplicates:
            found.append(f"samples that are there more than once: {_groups(self.duplicates)}")
        if self.in_training:
            found.append(
                f"samples that the model is trained on: {_indices(self.in_training)}; what it has learned by heart "
                "shows no harm"
            )
        if self.missing:
            found.append(f"no sample of the classes {_listed(self.missing)}: harm to them passes unseen")
        if self.rare:
            counts = ", ".join(f"{label} ({self.class_counts[label]})" for label in self.rare[:_SHOWN])
            more = " and more" if len(self.rare) > _SHOWN else ""
            found.append(f"few samples of the classes {counts}{more}: harm to them alone is hardly seen")
        if self.suspects:
            shown = "; ".join(map(str, self.suspects[:_SHOWN]))
            more = f" and {len(self.suspects) - _SHOWN} more (.suspects)" if len(self.suspects) > _SHOWN else ""
            found.append(
                f"{len(self.suspects)} labels that look wrong, or the model is: {shown}{more}. Look at them; nothing "
                "was changed"
            )
        if self.small:
            assert self.bound is not None
            found.append(
                f"a drop of up to {self.bound.max_accuracy_drop:.1f} points can pass: few samples for a tolerance of "
                f"{self.tolerance:g} (taster.probe.size says how many it takes)"
            )
        return found

    @property
    def ok(self) -> bool:
        """Whether there is nothing to find."""
        return not self.findings

    def __str__(self) -> str:
        kind = f", {self.task}" if self.task else ""
        classes = f", {len(self.class_counts)} classes" if self.class_counts else ""
        lines = [f"A probe of {self.samples} samples{kind}{classes}."]
        lines += [f"  {self.words.get(name, name)}: {_number(name, value)}" for name, value in self.quality.items()]
        if self.bound is not None:
            lines.append(
                f"  what can pass at none of {self.bound.checks:,} checks: more than "
                f"{self.bound.max_accuracy_drop:.1f} points"
            )
        found = self.findings
        lines += ["Found:", *(f"  - {sentence}" for sentence in found)] if found else ["Found nothing wrong."]
        return "\n".join(lines)


def _number(name: str, value: float) -> str:
    return f"{value:.3g}" if name == "loss" else f"{100 * value:.1f} %"


def _listed(values: Sequence[int]) -> str:
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(map(str, values[:_SHOWN])) + more


def _indices(values: Sequence[int]) -> str:
    return f"{len(values)} (indices {_listed(values)})"


def _groups(groups: Sequence[Sequence[int]]) -> str:
    shown = "; ".join(_listed(group) for group in groups[:_SHOWN])
    return f"{len(groups)} times (indices {shown}{'; and more' if len(groups) > _SHOWN else ''})"
