"""Every value, and nowhere else: folder path = attribute path of RunConfig."""
