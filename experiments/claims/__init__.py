"""The paper's claims: what each says, what the published figures say of it, and what a study's own results say."""
