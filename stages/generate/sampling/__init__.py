"""From noise to latents: when to ask the model, what to ask it, and how to go on from its answers.

Nothing here imports torch: what these files need of tensors are their methods. So settings and the values that use them are one.
"""
