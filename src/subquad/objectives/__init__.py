"""What a run learns. A new objective is one file beside this one and one line in the table here."""
