"""A plan, the proof that it can be carried out, and the code that does so."""
