"""InfiniteTalk: audio-driven dubbing for one or two speakers, on Wan2.1's image-to-video transformer."""
