"""Ground floor: errors, files, progress, tables, process pools. Imports nothing else of the project."""
