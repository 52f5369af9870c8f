"""Publish: verifies the film and delivers it, with its sidecar, under the storage root."""

from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.publish.settings import PublishSettings
from infinitedub.stages.records import Film, Job, Provenance, Receipt, Source


class PublishStage:
    """Delivers a `Film` as <folder>/<job>.mp4 with <folder>/<job>.json, and returns a `Receipt`.

    Two files cannot be replaced atomically together, so the film is delivered last: a film never has a sidecar older than itself. If the
    process dies in between, an older film lies beside the new sidecar until the next attempt; the sha256 in the sidecar shows the mismatch.
    """

    def __init__(self, config: PublishSettings) -> None:
        self.config = config

    def open(self, rank: Rank) -> None:
        """Imports the media libraries."""
        import infinitedub.stages.publish.film_check  # noqa: F401

    def __call__(self, job: Job, source: Source, film: Film, provenance: Provenance, *, files: Files) -> Receipt:
        from infinitedub.stages.publish.film_check import check_film, probe_film
        from infinitedub.stages.publish.sidecar import build_sidecar, write_sidecar

        path, folder = files.fetch(film.file), files.scratch()
        found = probe_film(path, audio_streams=1 if source.voices else 0)
        check_film(found, film)
        names = {"film": f"{self.config.folder}/{job.id}.mp4"}
        if self.config.comparison == "side_by_side":
            from infinitedub.stages.publish.side_by_side import write_comparison

            names["comparison"] = f"{self.config.folder}/{job.id}.comparison.mp4"
            comparison = folder / "comparison.mp4"
            write_comparison(files.fetch(source.picture), source, path, film, comparison)
            files.deliver(comparison, names["comparison"])
        sidecar = folder / "sidecar.json"
        write_sidecar(build_sidecar(job, source, film, found, provenance, names), sidecar)
        sidecar_uri = files.deliver(sidecar, f"{self.config.folder}/{job.id}.json")
        return Receipt(files.deliver(path, names["film"]), film.file.sha256, film.file.bytes, sidecar_uri)

    def close(self) -> None:
        """The stage holds no resources."""
