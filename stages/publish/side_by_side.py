"""A second film that shows source and dub side by side, for comparison by eye."""

from pathlib import Path

from infinitedub.stages.records import Film, Source


def write_comparison(source_picture: Path, source: Source, film_path: Path, film: Film, target: Path) -> None:
    """Writes the source on the left and the film on the right as one MP4 with the film's audio and length.

    moviepy composes it. moviepy garbles footage with a rotation flag, but both files were written by this product and have none. If the
    footage ends before the film, its last frame is held.
    """
    from moviepy import ImageClip, VideoFileClip, clips_array
    from moviepy.video.fx import Freeze

    source_clip = VideoFileClip(str(source_picture), audio=False) if source.moving else ImageClip(str(source_picture))
    with source_clip, VideoFileClip(str(film_path)) as dub:
        if source.moving and source_clip.duration < dub.duration:
            source_clip = source_clip.with_effects([Freeze(t="end", total_duration=dub.duration)])
        width = max(2, round(source.width * dub.h / source.height / 2) * 2)  # 4:2:0 chroma needs even sides
        left = source_clip.with_duration(dub.duration).resized((width, dub.h))
        pair = clips_array([[left, dub]]).with_audio(dub.audio)
        pair.write_videofile(
            str(target), fps=film.fps, codec="libx264", audio_codec="aac", preset="veryfast", threads=2, logger=None, audio_bufsize=256,
            temp_audiofile_path=str(target.parent), pixel_format="yuv420p",
        )  # fmt: skip
