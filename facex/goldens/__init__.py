"""Goldens: photographs with the faces that must be found in them, and how far a file may be off, replayable anywhere.

`format` holds the values and their JSON, `record` makes them, `replay` holds what a runtime found against them. The
same comparison is written in Kotlin and Swift in the bundles for apps; a rule that changes here changes there.
"""
