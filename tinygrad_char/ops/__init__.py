"""The operations of the tape, one `Function` class each, by kind."""
