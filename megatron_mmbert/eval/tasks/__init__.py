"""Tasks of ``mmbert evaluate``: their YAML definitions, their suites, the readers of their data, facts of languages."""
