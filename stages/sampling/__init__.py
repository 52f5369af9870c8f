"""From noise to latents: samplers, noise schedule, guidance and step caches.

Nothing here except schedules.py imports torch: the other files use methods of tensors only. So the settings and the code that uses them share a file.
"""
