"""`distill_model`: a student and its teacher, four terms, and steps of AdamW."""
