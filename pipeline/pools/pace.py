"""How long a gang may be silent: learnt from the windows it has made."""

from dataclasses import dataclass, field


@dataclass
class AdaptiveTimeout:
    """The slowest window of each kind so far, for all gangs of a pool. Windows of a kind are of one size, for as many speakers."""

    longest_seconds: float  # before anything is known, and never more
    factor: float
    floor_seconds: float
    slowest: dict[object, float] = field(default_factory=dict)

    def patience(self, kind: object) -> float:
        """Seconds to wait for the next sign of a call of that kind."""
        if kind not in self.slowest:
            return self.longest_seconds
        return min(self.longest_seconds, max(self.floor_seconds, self.factor * self.slowest[kind]))

    def heard(self, kind: object, seconds: float) -> None:
        """A window has come, after so many seconds."""
        self.slowest[kind] = max(seconds, self.slowest.get(kind, 0.0))
