"""The experiments of Ancona, Öztireli and Gross (2020) on networks that are trained here."""
