"""What is done to a video: one room per verb, pure of Ray, Hydra and buckets."""
