"""Finding the files of a corpus, and the language of each: from folders, file names, a field, or an argument."""
