"""Meters of a finished film: does the mouth follow the speech, rest in silence, pass from window to window unseen, and keep its colours."""
