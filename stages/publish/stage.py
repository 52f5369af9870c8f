"""Publish: a film that is proven to play, and its sidecar, where the catalogue's owner finds them."""

from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.publish.settings import PublishSettings
from infinitedub.stages.records import Film, Job, Provenance, Receipt, Source


class PublishStage:
    """A `Film` in, a `Receipt` out; delivers <folder>/<job>.mp4 and <folder>/<job>.json.

    Two files cannot be put in place at once, so the film comes last: whoever finds it finds a sidecar that is at least as new. Should the
    process die in between, an older film may stand beside the new sidecar for a while; the sha256 in the sidecar tells, and the next try
    puts the film there.
    """

    def __init__(self, config: PublishSettings) -> None:
        self.config = config

    def open(self, rank: Rank) -> None:
        """Imports the media libraries."""
        import infinitedub.stages.publish.film_check  # noqa: F401

    def __call__(self, job: Job, source: Source, film: Film, provenance: Provenance, *, files: Files) -> Receipt:
        from infinitedub.stages.publish.film_check import check, look_through
        from infinitedub.stages.publish.sidecar import sidecar, write_sidecar

        path, folder = files.fetch(film.file), files.scratch()
        seen = look_through(path)
        check(seen, film)
        names = {"film": f"{self.config.folder}/{job.id}.mp4"}
        if self.config.comparison == "side_by_side":
            from infinitedub.stages.publish.comparison import write_comparison

            names["comparison"] = f"{self.config.folder}/{job.id}.comparison.mp4"
            comparison = folder / "comparison.mp4"
            write_comparison(files.fetch(source.picture), source, path, film, comparison)
            files.deliver(comparison, names["comparison"])
        beside = folder / "sidecar.json"
        write_sidecar(sidecar(job, source, film, seen, provenance, names), beside)
        sidecar_uri = files.deliver(beside, f"{self.config.folder}/{job.id}.json")
        return Receipt(files.deliver(path, names["film"]), film.file.sha256, film.file.bytes, sidecar_uri)

    def close(self) -> None:
        """Nothing is held."""
