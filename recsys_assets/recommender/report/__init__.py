"""Charts and the evaluation report: `charts` draws, `page` writes the HTML file.

Scores and tables belong in the other stages; this package only aggregates them for display. Importing `charts` or
`page` loads Altair, which takes about a second, so the package imports neither.
"""
