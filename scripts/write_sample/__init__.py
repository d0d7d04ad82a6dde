"""The writer of the bundled sample catalogues.

Everything that invents the sample belongs here: the sentences (``content/``), the readers, who reads what, and the
files. The product never imports this package; it only ships what the package wrote.
"""
