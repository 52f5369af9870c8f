"""Room on the cluster: idle worker groups of other stages give way to a group that waits for a place."""

from collections.abc import Callable, Mapping, Sequence

from infinitedub.pipeline.pools.placement import GroupRequest, Node, groups_that_fit
from infinitedub.pipeline.pools.pool import Pool


class Room:
    """The pools of one driver on one cluster."""

    def __init__(self, nodes: Callable[[], Sequence[Node]]) -> None:
        """`nodes`: the cluster's living nodes."""
        self._nodes = nodes
        self.pools: Mapping[str, Pool] = {}

    async def make(self, request: GroupRequest) -> bool:
        """Retires the group of another stage that has been idle longest and holds what the request needs; False if there is none.

        Groups that hold a GPU go first if a GPU is needed, and stay for last otherwise: they would have to load their weights again.
        """
        gpu = bool(request.per_rank.get("GPU"))
        idle = [
            (bool(group.held.get("GPU")) is not gpu, since, pool, group)
            for stage, pool in self.pools.items()
            if stage != request.stage
            for group, since in pool.idle.items()
            if group.held
        ]
        if not idle:
            return False
        _, _, pool, group = min(idle, key=lambda entry: entry[:2])
        await pool.retire(group)
        return True

    def will_come(self, request: GroupRequest) -> bool:
        """Whether the request fits once the groups of other stages that hold something now have ended their calls."""
        others = [group for stage, pool in self.pools.items() if stage != request.stage for group in pool.groups]
        own = self.pools[request.stage].groups if request.stage in self.pools else ()
        return any(group.held for group in others) and groups_that_fit(self._nodes(), request) > sum(bool(group.held) for group in own)
