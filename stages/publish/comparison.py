"""Source and dub in one picture, for eyes that compare."""

from pathlib import Path

from infinitedub.stages.records import Film, Source


def write_comparison(source_picture: Path, source: Source, film_path: Path, film: Film, target: Path) -> None:
    """Writes the source on the left and the film on the right as one MP4 with the film's sound, as long as the film.

    moviepy composes it, which is safe because both files are our own: it garbles footage that is stored lying down. Footage that ends
    before the film is held on its last frame.
    """
    from moviepy import ImageClip, VideoFileClip, clips_array
    from moviepy.video.fx import Freeze

    given = VideoFileClip(str(source_picture), audio=False) if source.moving else ImageClip(str(source_picture))
    with given, VideoFileClip(str(film_path)) as dub:
        if source.moving and given.duration < dub.duration:
            given = given.with_effects([Freeze(t="end", total_duration=dub.duration)])
        width = max(2, round(source.width * dub.h / source.height / 2) * 2)  # 4:2:0 chroma wants even sides
        left = given.with_duration(dub.duration).resized((width, dub.h))
        pair = clips_array([[left, dub]]).with_audio(dub.audio)
        pair.write_videofile(
            str(target), fps=film.fps, codec="libx264", audio_codec="aac", preset="veryfast", threads=2, logger=None, audio_bufsize=256,
            temp_audiofile_path=str(target.parent), pixel_format="yuv420p",
        )  # fmt: skip
