"""How a row of the catalogue becomes a film. Read this first: it is the whole program in three functions."""

from infinitedub.pipeline.run.job_stages import JobStages, all_of, both
from infinitedub.stages.records import Clip, Job, Receipt, Seed, Segment, Source, Speech


async def dub_job(job: Job, stages: JobStages) -> Receipt:
    """The film of one job, delivered."""
    source, segments, speech = await prepare_job(job, stages)
    clips = await all_of(dub_segment(job, segment, source, speech, stages) for segment in segments)
    film = await stages.assemble(source, clips)
    return await stages.publish(job, source, film)


async def prepare_job(job: Job, stages: JobStages) -> tuple[Source, tuple[Segment, ...], Speech | None]:
    """The job's material made safe, its segments, and the speech features if the engine needs them."""
    source = await stages.ingest(job.material)
    segments, speech = await both(stages.segment(source, job.length), stages.listen(source))
    return source, segments, speech


async def dub_segment(job: Job, segment: Segment, source: Source, speech: Speech | None, stages: JobStages) -> Clip:
    """The frames of one segment. Segments do not depend on each other, so they spread over all gangs."""
    conditions = await stages.condition(source, segment, job.prompt)
    return await stages.generate(segment, conditions, speech, Seed(job.seed, job.id))
