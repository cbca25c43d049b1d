"""Every command under every fault: files that cannot be opened, kills, damaged inputs, losses of power, two at once.

The first two come from a library that is preloaded (``inject.c``) into a fork server (:mod:`.server`), so that one try
takes the command's own time and no imports. :mod:`.cases` lists the commands, :mod:`.harm` what is done to their files,
:mod:`.judge` the ends that are allowed, :mod:`.bench` runs one cell, :mod:`.matrix` all of them.
"""
