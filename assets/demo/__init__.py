"""The demo catalogue and its media; README.md says what each file is and how it came about."""
