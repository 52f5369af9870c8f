"""How a row of the catalogue becomes a film. Read this first: it is the whole program in two functions."""

from infinitedub.pipeline.run.job_stages import JobStages, all_of, both
from infinitedub.stages.records import Clip, Job, Receipt, Seed, Segment, Source, Speech


async def dub_job(job: Job, crew: JobStages) -> Receipt:
    """The film of one job, delivered."""
    source = await crew.ingest(job.material)
    segments, speech = await both(crew.segment(source, job.length), crew.listen(source))
    clips = await all_of(dub_segment(job, segment, source, speech, crew) for segment in segments)
    film = await crew.assemble(source, clips)
    return await crew.publish(job, source, film)


async def dub_segment(job: Job, segment: Segment, source: Source, speech: Speech, crew: JobStages) -> Clip:
    """The frames of one segment. Segments know nothing of each other, so they spread over all gangs."""
    conditions = await crew.condition(source, segment, job.prompt)
    return await crew.generate(segment, conditions, speech, Seed(job.seed, job.id))
