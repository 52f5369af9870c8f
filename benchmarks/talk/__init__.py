"""How well the bundled model talks; see __main__.py."""
