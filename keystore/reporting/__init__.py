"""What a data-protection officer takes away: reports from the verified log, and receipts of erasures."""
