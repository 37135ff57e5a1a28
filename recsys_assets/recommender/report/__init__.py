"""Pictures and the evaluation report: `charts` draws, `page` writes the HTML file.

Nothing is computed here but what a picture shows; scores and tables come from the other stages. Importing `charts` or
`page` loads Altair, which takes about a second, so this package imports neither by itself.
"""
