"""What a model is made of: specs (data), the table of families, axis arithmetic, the view."""
